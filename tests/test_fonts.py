"""Fonts that can write an instruction."""

import pytest
from PIL import ImageFont

from streamvln_gym import fonts
from streamvln_gym.fonts import font_of, writable


def test_english_is_written_in_pillows_own_font():
    assert writable("Walk past the sofa - then stop.", 20) == ("Walk past the sofa - then stop.", font_of(20))


def test_accents_are_written_or_go(monkeypatch):
    text, font = writable("Küche, façade", 20)
    if font is not font_of(20):  # the system has a font for them
        assert text == "Küche, façade"
    monkeypatch.setattr(fonts, "_SYSTEM_FONTS", ())
    assert writable("Küche, façade", 20) == ("Kuche, facade", font_of(20))
    with pytest.warns(UserWarning, match="no font of this machine can write 日本"):
        assert writable("Café… 日本", 20)[0] == "Cafe… 日本"


def test_the_first_font_of_the_system_that_has_the_characters_is_taken(monkeypatch):
    try:
        dejavu = ImageFont.truetype("DejaVuSans.ttf", 20)
    except OSError:
        pytest.skip("needs the font DejaVu Sans")
    monkeypatch.setattr(fonts, "_SYSTEM_FONTS", ("no such font.ttf", "DejaVuSans.ttf"))
    text, font = writable("Идите на кухню", 20)
    assert text == "Идите на кухню" and font.getname() == dejavu.getname()


def test_what_no_font_has_is_warned_of(monkeypatch):
    monkeypatch.setattr(fonts, "_SYSTEM_FONTS", ())
    fonts._warn.cache_clear()
    with pytest.warns(UserWarning, match="no font of this machine can write .*fonts-noto"):
        writable("रसोई में जाओ", 20)
