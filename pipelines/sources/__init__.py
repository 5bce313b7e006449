"""Data that users bring: judged lists (LETOR, SVMLight, LightGBM, Parquet) and feature rows, read in bounded parts."""
