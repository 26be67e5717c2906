"""A reproducibility study of zero-shot cross-lingual transfer."""
