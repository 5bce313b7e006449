"""What settings must be: each by its own rule, and some beside one another."""

import re
from typing import TYPE_CHECKING

from deploy.data_folder import MAX_REPLICAS
from deploy.database_url import database_url
from deploy.errors import SettingsError
from deploy.events.url import EventsUrl
from deploy.features.url import FeaturesUrl, without_password
from deploy.telemetry.settings import parse_traces
from deploy.variables import SECRET, require, variable
from drift.settings import parse_monitor, parse_rank_diff, parse_reports
from drift.windows.segments import parse_segments
from registry.signatures import Signer, TrustedKeys
from serving.addresses import TcpAddress, parse_address
from serving.budget import parse_budgets, parse_bytes
from serving.flow.settings import parse_flow
from serving.settings import device_rules, parse_quotas, parse_token_claims
from serving.shares import parse_weights
from serving.tls.settings import parse_fleet_tls, parse_gateway_tls

if TYPE_CHECKING:
    from deploy.settings import PlatformSettings

RANKING_KEY_CHARACTERS = 32
_HTTP_URL = re.compile(r"https?://[^\s/]+(/[^\s]*)?")
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
_AUTH = ("", "control", "all")


def check(settings: "PlatformSettings") -> None:
    """Raises SettingsError, naming key, value and rule."""
    require(settings.home.is_absolute(), "home", settings.home, "an absolute path")
    require(not settings.home.exists() or settings.home.is_dir(), "home", settings.home, "a folder")
    require("\n" not in str(settings.home), "home", repr(str(settings.home)), "a path without line breaks")
    require(bool(settings.gateway_host.strip()), "gateway_host", settings.gateway_host, "an address to listen on")
    require(1 <= settings.worker_port <= 65535 - MAX_REPLICAS, "worker_port", settings.worker_port, "a port")
    for key, parse in (
        ("model_budgets", parse_budgets),
        ("device_memory", parse_bytes),
        ("model_weights", parse_weights),
        ("redis", FeaturesUrl.parse),
        ("broker", FeaturesUrl.server),
        ("features_url", FeaturesUrl.parse),
        ("events_url", EventsUrl.parse),
        ("flow", parse_flow),
        ("rank_diff", parse_rank_diff),
        ("drift", parse_monitor),
        ("drift_reports", parse_reports),
        ("drift_segments", parse_segments),
        ("gates", _parse_gates),
        ("retrain_anchor", lambda anchor: _parse_retraining("", anchor)),
        ("retraining", _parse_retraining),
        ("train", _parse_train),
        ("run_limits", _parse_limits),
        ("traces", parse_traces),
        ("control_url", database_url),
        ("mlflow_backend", database_url),
        ("control_address", parse_address),
        ("probe_address", _parse_tcp),
        ("quotas", parse_quotas),
        ("jwt_claims", parse_token_claims),
        ("signing_key", Signer.from_pem),
        ("trusted_keys", TrustedKeys.parse),
        ("fleet_tls", parse_fleet_tls),
        ("gateway_tls", parse_gateway_tls),
    ):
        if text := getattr(settings, key):
            try:
                parse(text)
            except ValueError as error:
                raise SettingsError(
                    variable(key),
                    "(secret)" if key in SECRET else without_password(text),
                    _rule(str(error), text),
                ) from error
    if settings.device_memory:
        promised = sum(parse_budgets(settings.model_budgets).values())
        rule = f"at most the device's memory, {settings.device_memory}, for all models together"
        require(promised <= parse_bytes(settings.device_memory), "model_budgets", settings.model_budgets, rule)
    for key in ("gateway_port", "grpc_port", "mlflow_port"):
        require(0 <= getattr(settings, key) <= 65535, key, getattr(settings, key), "a port, or 0 for a free one")
    for key, others, rule in (
        ("mlflow_port", (settings.gateway_port,), "another port than the gateway's"),
        ("grpc_port", (settings.gateway_port, settings.mlflow_port), "another port than the gateway's and MLflow's"),
    ):
        port = getattr(settings, key)
        require(port == 0 or port not in others, key, port, rule)
    for key, least in (("gateways", 1), ("workers", 0)):
        require(
            least <= getattr(settings, key) <= MAX_REPLICAS, key, getattr(settings, key), f"{least} to {MAX_REPLICAS}"
        )
    require(0 <= settings.event_replicas <= 8, "event_replicas", settings.event_replicas, "0 to 8")
    require(
        not settings.mlflow or bool(_HTTP_URL.fullmatch(settings.mlflow)), "mlflow", settings.mlflow, "http://host:port"
    )
    require(
        not settings.ranking_key or len(settings.ranking_key) >= RANKING_KEY_CHARACTERS,
        *("ranking_key", "(set)", f"{RANKING_KEY_CHARACTERS} characters or more, the same for all gateways"),
    )
    require(1 <= settings.torch_threads <= 256, "torch_threads", settings.torch_threads, "1 to 256")
    for key, holds, rule in device_rules(settings.device, settings.precision, settings.compile):
        require(holds, key, getattr(settings, key), rule)
    settings.triton_addresses  # noqa: B018 - raises if it cannot be read
    require(settings.auth in _AUTH, "auth", settings.auth, f"{' or '.join(filter(None, _AUTH))}, or nothing")
    require(1 <= settings.audit_days <= 3660, "audit_days", settings.audit_days, "1 to 3660")
    try:
        settings.tokens  # noqa: B018 - raises if it is not whole
    except ValueError as error:
        key, _, told = str(error).partition("=")
        value, _, rule = told.rpartition(": expected ")
        raise SettingsError(variable("jwt_claims" if "." in key else key), without_password(value), rule) from error
    require(settings.log_level in _LEVELS, "log_level", settings.log_level, f"one of {', '.join(_LEVELS)}")
    require(0 <= settings.replica < MAX_REPLICAS, "replica", settings.replica, f"0 to {MAX_REPLICAS - 1}")


def _rule(said: str, text: str) -> str:
    """
    >>> _rule("shift.anchor_days=2: expected 14 to 366", "day_s=60,anchor_days=2")
    '14 to 366 for anchor_days'
    >>> _rule("shift.anchor_days=2: expected 14 to 366", "anchor_days=2")
    '14 to 366'
    """
    rule = said.rpartition("expected ")[2]
    part = re.match(r"(?:\w+\.)?(\w+)=[\w.+-]+: expected ", said)
    return f"{rule} for {part[1]}" if part and "," in text else rule


def _parse_tcp(text: str) -> None:
    if not isinstance(parse_address(text), TcpAddress):
        raise ValueError("expected tcp:host:port")


def _parse_gates(text: str) -> object:
    """Only where it is told: gateways do without the pipelines."""
    from pipelines.settings import parse_gates

    return parse_gates(text)


def _parse_retraining(text: str, anchor: str = "") -> object:
    from pipelines.settings import parse_retraining

    return parse_retraining(text, anchor)


def _parse_train(text: str) -> object:
    from pipelines.settings import parse_train

    return parse_train(text)


def _parse_limits(text: str) -> object:
    from pipelines.settings import parse_limits

    return parse_limits(text)
