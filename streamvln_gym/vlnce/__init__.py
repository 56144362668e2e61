"""VLN-CE's data: episode files, where they lie, and the files of its leaderboards."""

from streamvln_gym.vlnce.dataset import VLNCEDataset, write_dataset
from streamvln_gym.vlnce.index import ground_truth_path

__all__ = ["VLNCEDataset", "ground_truth_path", "write_dataset"]
