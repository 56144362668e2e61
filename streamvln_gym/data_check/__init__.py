"""`streamvln-gym data check`: what is wrong with a folder of VLN-CE's data, and what to do."""

from streamvln_gym.data_check.folder import check_data
from streamvln_gym.data_check.report import DataProblem, DataReport

__all__ = ["DataProblem", "DataReport", "check_data"]
