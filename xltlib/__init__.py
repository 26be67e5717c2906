"""A reproducibility study of zero-shot cross-lingual transfer."""

import warnings

# progress bars of other libraries would like a widget package; the study shows its progress as text
warnings.filterwarnings("ignore", message="IProgress not found")


class StudyError(Exception):
    """An input that the study cannot use: the message names the place, what was found and how to mend it."""
