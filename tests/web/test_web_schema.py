"""The schema holds for whatever schemathesis makes of it: every status and body is the one that is promised."""

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from served import HERE

from biovita.web.app import create_app
from biovita.web.settings import Settings

CONFIG = {
    "checks": {
        # Random bytes fit the schema and are no sound: refused with 422, as the schema says.
        "positive_data_acceptance": {"expected-statuses": ["2xx", 415, 422]},
    }
}


@pytest.fixture(scope="module")
def client(shown: dict[str, Any]) -> Iterator[TestClient]:
    with TestClient(create_app(Settings(**shown, requests_per_min=10**9)), base_url=HERE) as client:
        yield client


@pytest.fixture(scope="module")
def schema(client: TestClient) -> Any:
    config = schemathesis.Config.from_dict(CONFIG)
    return schemathesis.openapi.from_asgi("/openapi.json", client.app, config=config)


OPERATIONS = (
    *(("/api/identify", "POST"), ("/api/search", "POST"), ("/api/archive", "GET"), ("/api/archive/hits", "GET")),
    *(("/api/labels", "GET"), ("/api/labels", "POST"), ("/healthz", "GET"), ("/metrics", "GET")),
)


@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_every_answer_is_as_the_schema_says(schema: Any, path: str, method: str, mode: GenerationMode) -> None:
    operation = schema[path][method]
    strategy = operation.as_strategy(generation_mode=mode)

    @given(case=strategy)
    @settings(
        max_examples=15, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    def check(case: Any) -> None:
        case.call_and_validate()

    if mode.is_negative and not (operation.body or operation.query):
        return  # there is nothing to get wrong
    check()


def test_the_schema_has_these_operations(schema: Any) -> None:
    found = {(one.ok().path, one.ok().method.upper()) for one in schema.get_all_operations()}
    assert found == set(OPERATIONS)
