"""The page about an evaluation: one HTML file that needs no server and no network.

`run_files` reads the run, `charts` draws (on a `canvas`), `measures` names the metrics, `scene_maps` has scenes from
above, `episodes` what the page shows of each episode; `page` puts it together with `assets/`, `writer` writes it.
"""

from streamvln_gym.evaluation.report.writer import ReportConfig, write_report

__all__ = ["ReportConfig", "write_report"]
