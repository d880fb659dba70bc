"""The OpenAPI document tells the truth: its examples work, and whatever is sent after it is served or refused whole."""

import json

import jsonschema
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode, checks

from service.gateway import docs, errors, examples, health, routes, tokenizing
from service.gateway.app import create_app
from service.gateway.settings import Settings
from tests.service.gateway.conftest import gateway_before
from tests.service.gateway.scripted_upstream import MODEL

DOCUMENT = create_app(Settings()).openapi()
POSTS = sorted(examples.REQUESTS)
ADDED = {"rid", "return_spec_tokens_details", "stream_options"}  # sglang.additions
OF_UPSTREAM = {
    "/v1/chat/completions": "ChatCompletionRequest",
    "/v1/completions": "CompletionRequest",
    "/v1/responses": "ChatCompletionRequest",
    "/v1/tokenize": "TokenizeRequest",
    "/v1/detokenize": "DetokenizeRequest",
}


def validator(name):
    schema = {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
    return jsonschema.Draft202012Validator(schema)


def operations():
    return [(path, method, operation) for path, of in DOCUMENT["paths"].items() for method, operation in of.items()]


def responses():
    return [
        (f"{path} {status}", response) for path, _, of in operations() for status, response in of["responses"].items()
    ]


def test_every_route_is_in_the_document_but_the_second_names_and_the_page_itself():
    routers = (routes.router, tokenizing.router, health.router, docs.router)
    served = {route.path.replace(":path", "") for router in routers for route in router.routes}
    assert served - set(DOCUMENT["paths"]) == {"/tokenize", "/detokenize", "/docs"}


def test_every_operation_has_words_and_every_answer_an_example_that_its_schema_allows():
    for path, _, operation in operations():
        assert operation["summary"], path
        assert operation["description"], path
    for name, response in responses():
        assert response["description"], name
        for media_type, content in response["content"].items():
            assert content["example"], name
            if media_type == "application/json":
                validator(content["schema"]["$ref"].rpartition("/")[2]).validate(content["example"])


@pytest.mark.parametrize("path", POSTS)
def test_every_error_a_client_can_see_is_documented_where_a_body_is_sent(path):
    kinds = [errors.GatewayError]
    for kind in kinds:
        kinds.extend(kind.__subclasses__())
    not_of_a_route = {
        errors.ClientGone.status,
        errors.MethodNotAllowed.status,
    }
    documented = {int(status) for status in DOCUMENT["paths"][path]["post"]["responses"]}
    assert documented == {200} | {kind.status for kind in kinds} - not_of_a_route


@pytest.mark.parametrize(
    ("path", "name"), [(path, name) for path, given in examples.REQUESTS.items() for name in given]
)
def test_every_example_of_a_request_is_allowed_and_served(upstream, path, name):
    document = examples.REQUESTS[path][name]
    body_validator(path).validate(document)
    upstream.model_info["tool_call_parser"] = "qwen25"
    with gateway_before(upstream.url) as client:
        answer = client.post(path, json=document)
    assert answer.is_success, answer.text
    media_type = answer.headers["content-type"].partition(";")[0]
    assert media_type in DOCUMENT["paths"][path]["post"]["responses"]["200"]["content"]


def of_our_model():
    """The document, but the only model there is: random names would all end in a 404."""
    document = json.loads(json.dumps(DOCUMENT))
    for name in set(OF_UPSTREAM.values()) | {"ResponsesRequest"}:
        document["components"]["schemas"][name]["properties"]["model"] = {"type": "string", "enum": [MODEL]}
    return document


FUZZED = schemathesis.openapi.from_dict(of_our_model())
OPERATIONS = [operation.ok() for operation in FUZZED.get_all_operations()]
CHECKS = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.response_headers_conformance,
]


def body_validator(path):
    schema = DOCUMENT["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    return validator(schema["$ref"].rpartition("/")[2])


def is_wrong(case):
    """What is wrong for one member of a union may be right for another: schemathesis does not look."""
    return case.media_type != "application/json" or not body_validator(case.operation.path).is_valid(case.body)


@pytest.fixture(scope="module")
def session():
    with requests.Session() as session:
        session.trust_env = False
        yield session


@pytest.mark.parametrize(
    ("operation", "mode"),
    [
        pytest.param(operation, mode, id=f"{mode.value} {operation.label}")
        for operation in OPERATIONS
        for mode in GenerationMode
        if mode is GenerationMode.POSITIVE or operation.path in POSTS  # the others take nothing that could be wrong
    ],
)
def test_whatever_is_sent_is_served_or_refused_whole(gateway, upstream, session, operation, mode):
    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(case=operation.as_strategy(generation_mode=mode))
    def law(case):
        seen_before = len(upstream.generated) + len(upstream.asked)
        answer = case.call(base_url=str(gateway.base_url), session=session, timeout=10)
        refusal = [checks.negative_data_rejection] if mode is GenerationMode.NEGATIVE and is_wrong(case) else []
        case.validate_response(answer, checks=[*CHECKS, *refusal])
        reached = upstream.generated + [body for _, body in upstream.asked]
        assert len(reached) - seen_before == int(operation.path in POSTS and answer.status_code == 200)
        upstream.generated.clear()
        upstream.asked.clear()
        for body in reached[seen_before:]:
            document = {name: value for name, value in body.items() if name not in ADDED}
            validator(OF_UPSTREAM[operation.path]).validate(document)

    law()
