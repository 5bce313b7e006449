"""The messages of our gRPC services: `.proto` beside what `deploy/scripts/protos` makes of it.

The generated modules keep their descriptors in pools of their own. A client library in the same
process brings the same names (`inference.ModelInferRequest`), and the default pool takes a name
once: whichever came second would fail to import.
"""
