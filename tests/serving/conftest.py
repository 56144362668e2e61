from collections.abc import Callable

import pytest

pytest.importorskip("fastapi", reason="serving needs the extra [serve]")
pytest.importorskip("uvicorn", reason="serving needs the extra [serve]")
pytest.importorskip("websockets", reason="serving needs the extra [serve]")


@pytest.fixture(scope="session")
def new_agent() -> Callable:
    """Makes agents of one thin network whose answers depend on what they see."""
    from streamvln_gym.agents import StreamVLNAgent
    from tests.thin_network import thin_parts

    parts = thin_parts(0.1)
    return lambda **settings: StreamVLNAgent(*parts, **settings)
