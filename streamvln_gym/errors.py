"""The package's own errors. Each message says what was wrong, where, and what to do."""


class StreamVLNGymError(Exception):
    """Base of every error that this package raises on purpose."""


class DatasetError(StreamVLNGymError):
    """An episode file or a dataset folder is missing, corrupt or inconsistent."""


class SceneError(StreamVLNGymError):
    """A scene file (GLB, navigation mesh, scene graph) is missing, corrupt or unusable."""


class NavigationError(StreamVLNGymError):
    """A position is off the navigation mesh, or a goal cannot be reached."""


class SimulatorUnavailableError(StreamVLNGymError):
    """The simulator that was asked for by name cannot be had here."""


class EpisodeNotFoundError(StreamVLNGymError, KeyError):
    """No episode (or no scene) of the dataset has the id that was asked for."""

    def __str__(self) -> str:  # KeyError would show the repr of the message
        return str(self.args[0]) if self.args else ""


class CheckpointError(StreamVLNGymError):
    """A model checkpoint is missing, corrupt or does not fit the model."""


class EvaluationError(StreamVLNGymError):
    """An evaluation cannot start, go on or be compared; what is finished is kept."""


class TrainingError(StreamVLNGymError):
    """Training cannot start, go on or be resumed."""
