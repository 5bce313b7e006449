"""The event archive: from the stream into Parquet files by model and hour, each event in them once.

`archiver` is the process, `batch` sorts stream entries, `tables` has the columns, `files` writes and reads.
"""
