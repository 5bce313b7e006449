"""What a user writes today: FastAPI, Redis and Triton, joined by hand. Run by `glue`, not by a person.

`uvicorn tests.bench.glue_service:app`, told by the environment: GLUE_REDIS (a Unix socket), GLUE_TRITON
(host:port, HTTP), GLUE_MODEL, GLUE_COLUMNS. Written with care: one MGET for all rows, one copy into
the matrix, pools of connections, binary tensors to Triton, orjson out, uvloop and httptools under it.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import orjson
import redis.asyncio
import tritonclient.http.aio as triton
from fastapi import FastAPI, Response
from pydantic import BaseModel

COLUMNS = int(os.environ.get("GLUE_COLUMNS", "0"))
MODEL = os.environ.get("GLUE_MODEL", "")
ROW_BYTES = COLUMNS * 4
DEFAULT = bytes(ROW_BYTES)


class RankRequest(BaseModel):
    """As Sluice's /rank, in what it has in common."""

    unit: str
    candidates: list[str]
    top_k: int


@asynccontextmanager
async def connected(app: FastAPI) -> AsyncIterator[None]:
    """Both clients, for as long as the service runs."""
    app.state.rows = redis.asyncio.Redis(unix_socket_path=os.environ["GLUE_REDIS"], max_connections=64)
    app.state.triton = triton.InferenceServerClient(os.environ["GLUE_TRITON"], conn_limit=64)
    yield
    await app.state.triton.close()
    await app.state.rows.aclose()


app = FastAPI(lifespan=connected)


@app.post("/rank")
async def rank(asked: RankRequest) -> Response:
    """The best candidates with their scores."""
    rows = await app.state.rows.mget([f"row:{item}" for item in asked.candidates])
    packed = b"".join([row or DEFAULT for row in rows])
    matrix = np.frombuffer(packed, np.float32).reshape(len(rows), COLUMNS)
    features = triton.InferInput("features", list(matrix.shape), "FP32")
    features.set_data_from_numpy(matrix)
    answer = await app.state.triton.infer(MODEL, [features], outputs=[triton.InferRequestedOutput("scores")])
    scores = answer.as_numpy("scores")[:, 0]
    best = np.argsort(-scores, kind="stable")[: asked.top_k].tolist()
    items = [
        {"id": asked.candidates[place], "score": float(scores[place]), "position": position}
        for position, place in enumerate(best, 1)
    ]
    return Response(orjson.dumps({"items": items}), media_type="application/json")
