"""schemathesis on the running gateway, its data and control routes, by its own OpenAPI document: what the document
allows and what it forbids, and every answer as the document has it."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    missing_required_header,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from serving.regions import Regions
from tests.builders import a_plan
from tests.deploy.control_desk import ControlBench, a_control_bench
from tests.serving.http_gateway import RunningGateway, a_running_gateway
from tests.serving.workbench import a_replica

CASES = 6
"""Of each operation, of what is allowed and of what is not."""
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
    missing_required_header,
    unsupported_method,
    ignored_auth,
]
NOT_SERVED = 501  # said on purpose of a part of the Open Inference Protocol, and documented


class Platform:
    """A gateway, a worker and a controller behind it, and their document."""

    def __init__(self, gateway: RunningGateway, bench: ControlBench) -> None:
        self.url, self.key, self.bench = f"http://{gateway.address}", bench.admin, bench
        document = httpx.get(f"{self.url}/openapi.json").json()
        self.schema = schemathesis.openapi.from_dict(document)
        self.operations = {one.ok().label: one.ok() for one in self.schema.get_all_operations()}


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    folder = tmp_path_factory.mktemp("openapi")
    (folder / "shm").mkdir()
    regions = Regions(folder / "book", folder / "shm")

    async def hold(model: str, wanted: bool) -> None:
        """Nothing is let go: other cases need it."""

    with a_replica() as replica, a_control_bench(folder) as bench:
        assert bench.promote(1).status_code == 200
        controller = "tcp:" + bench.url.removeprefix("http://")
        with a_running_gateway(replica.address, a_plan(), regions, hold, controller=controller) as gateway:
            yield Platform(gateway, bench)
    regions.close()


def refusals(platform: Platform, case: schemathesis.Case) -> list[str]:
    """What the checks say against the answer to a case."""
    signed = {"Authorization": f"Bearer {platform.key}"} if _is_control(case) else {}
    response = case.call(base_url=platform.url, headers=signed)
    checks = [check for check in CHECKS if check is not not_a_server_error or response.status_code != NOT_SERVED]
    try:
        case.validate_response(response, checks=checks, headers=signed)
    except BaseExceptionGroup as group:
        return [f"{case.operation.label}: {one}" for one in group.exceptions]
    except AssertionError as error:
        return [f"{case.operation.label}: {error}"]
    return []


def _is_control(case: schemathesis.Case) -> bool:
    return bool(case.operation.definition.raw.get("security"))


def test_every_operation_answers_as_the_document_says(platform: Platform) -> None:
    told: list[str] = []
    cases = 0

    for operation in platform.operations.values():
        either = operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
        either |= operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)

        @seed(1)
        @settings(
            max_examples=2 * CASES,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(either)
        def ask(case: Any) -> None:
            nonlocal cases
            cases += 1
            told.extend(refusals(platform, case))

        ask()

    assert not told, f"{len(told)} of {cases} cases\n" + "\n".join(dict.fromkeys(told))
    assert cases > 10 * len(platform.operations)
