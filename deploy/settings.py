"""PlatformSettings: what one installation is told, read once from `SLUICE_*`; and where things lie.

Nothing else in Sluice reads the environment. The supervisor passes its effective values on to
its children with `to_environment`, so that all of them see the same.
"""

import dataclasses
import difflib
import hashlib
import logging
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.database_url import database_url
from deploy.errors import SettingsError
from deploy.events.url import EventsUrl
from deploy.features.url import FeaturesUrl, without_password
from deploy.telemetry.settings import parse_traces
from drift.settings import parse_monitor, parse_rank_diff, parse_reports
from drift.windows.segments import parse_segments
from registry.signatures import Signer, TrustedKeys
from serving.addresses import TcpAddress, UnixAddress, parse_address
from serving.budget import parse_budgets, parse_bytes
from serving.flow.settings import parse_flow
from serving.settings import TokenSettings, device_rules, parse_quotas, parse_token_claims
from serving.shares import parse_weights
from serving.tls.settings import parse_fleet_tls, parse_gateway_tls

logger = logging.getLogger(__name__)

PREFIX = "SLUICE_"
MAX_REPLICAS = 64
SOCKET_PATH_BYTES = 107  # sun_path is 108 bytes and ends with a zero
_TRITON_SERVER = re.compile(r"(?P<name>[A-Za-z0-9._-]{1,64})=(?P<address>[^\s=,/]+:(?P<port>\d{1,5}))")
_HTTP_URL = re.compile(r"https?://[^\s/]+(/[^\s]*)?")
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
_TRUE = ("1", "true", "yes", "on")
_FALSE = ("0", "false", "no", "off")
_SECRETIVE = ("redis", "broker", "features_url", "events_url", "control_url", "mlflow", "mlflow_backend", "jwt_key_set")
"""These may hold a password."""
_SECRET = ("jwt_secret", "ranking_key", "signing_key")
RANKING_KEY_CHARACTERS = 32
FROM_FILES = (*_SECRETIVE, *_SECRET, "trusted_keys", "key")
_AUTH = ("", "control", "all")
_UNSET = frozenset({"replica"})  # told to a process by its name, not by the environment


@dataclass(frozen=True, slots=True)
class PlatformSettings:
    """Field `gateway_port` is `SLUICE_GATEWAY_PORT`, and so on.

    home: the data folder; absolute.
    gateway_port, grpc_port, mlflow_port: 0 picks a free one, see `home.claim_ports`. Gateways listen for
    gRPC on `gateway_host`, too, unless with_grpc is 0.
    gateways, workers: how many processes of each on this machine; 0 workers: gateways find those of others.
    worker_host: interface that workers listen on and gateways of other machines reach, from port
    worker_port upwards; empty: Unix sockets. Without fleet_tls workers ask nobody who he is: a private network only.
    model_budgets: memory of a device by model, `search=2GB,ads=500MB`; device_memory: all of it,
    shared by the models without a budget; empty: not limited. model_weights: shares of a device's
    time, `search=2,ads=1`; 1 if not named. repository_control: whether clients may load and unload
    models by API. shared_memory_regions: whether clients on this machine may register shared memory,
    which is read and written in the gateway's name.
    version_header: whether a query may name the version that answers it, of those in the plan
    (`x-sluice-version`), for testers. torch_threads: of one worker. with_*: leave these processes out with 0.
    replica: which of several like processes this one is, from 0.
    triton_servers: where versions may run that do not run here, "name=host:port,other=host:port"
    of gRPC front ends, see `triton_addresses`.
    control_url: database of traffic plans and rollouts; mlflow_backend: MLflow's database, see
    `database_url.RULE`; empty: SQLite files in the data folder. Processes and commands of one platform
    must be told the same. control_address: where the controller listens for gateways, `tcp:host:port` on a
    private network, see `serving.addresses`; empty: a Unix socket.
    redis: where events, plans, boards and rows are kept, a Redis server or Redis Cluster of your own, see
    `features.url.RULE`; empty: an embedded Redis. event_replicas: how many replicas must have an event before the
    gateway takes it for written. broker: Celery's queue, a Redis server, which cannot be a cluster; empty: `redis` if
    that is a server, else the embedded Redis. features_url: where rows are kept, if elsewhere.
    events_url: where events go, a topic of a Kafka of your own, see `deploy.events.url.RULE`; empty: Redis Streams.
    device: where workers compute, `cpu`, `cuda:1`, or `cuda`, which gives the workers the machine's
    GPUs in turn. precision: fp32, tf32 (GPU only), bf16 or fp16, kept by versions that rank alike in
    it; compile: none, compile (torch.compile) or aoti (ahead of time), at load.
    flow: what gateways let in, send again or answer by less, `given_order=1,retry_share=0.2`, see
    `serving.flow.settings.parse_flow`.
    rank_diff: what mirrored lists are held against, `min_overlap=0.5,window_s=30`, see
    `drift.settings.parse_rank_diff`. drift: windows and days of the drift monitor, `window_s=60,day_s=3600`, see
    `drift.settings.parse_monitor`; drift_segments: parts of a model's rankings that are watched apart,
    `search:query_terms<2<5`, see `drift.windows.segments.parse_segments`; drift_reports: of which days Evidently makes
    a report, `each_day=1,kept=60`, see `drift.settings.ReportSettings`. gates: how online gates are judged and what a
    model's year may spend, `period_s=30,yearly_alpha=0.3`, see `pipelines.settings.GateSettings`.
    retrain_anchor: a day on which a window of retraining begins, in UTC. retraining: when models learn anew and from
    what, `days=14,collect_days=7,cool_down_days=3`, see `pipelines.settings.RetrainSettings`; train: how,
    `loss=lambdaloss,hidden=64:32`, see `TrainSettings`; run_limits: how long a step of a run may take, in s,
    `train=43200,collect=3600`.
    auth: who needs a key or token. `control`: who uses the control API; `all`: who asks queries, too; empty: `all`
    where gateways listen on more than this machine, else `control`. quotas: what keys and lines may ask a second,
    `key=50/5000,search=1000/100000,burst_s=2`, see `serving.settings.parse_quotas`.
    jwt_issuer, jwt_audience, jwt_key_set, jwt_claims: whose tokens are good and what they say, see
    `serving.settings.TokenSettings` and `parse_token_claims`; without an issuer, none. development: allows what is not
    for production: tokens by a shared secret (jwt_secret, HS256), a key set by plain HTTP.
    audit_days: how long the audit log of control calls is kept.
    signing_key: signs every version that is registered, `registry.signatures.PRIVATE_RULE`; told to those who register
    versions only. trusted_keys: whose versions are registered, given traffic and loaded, `ci=BASE64,ann=BASE64`;
    empty: signatures are not asked for.
    mlflow: a tracking server of your own, `http://host:port`; empty: the embedded one. ranking_key: what
    ranking ids are signed with, the same for all gateways of several machines; empty: a key in the data folder.
    probe_address: where a process that `sluice run` started tells how it is, `tcp:host:port` on a private network, see
    `deploy.telemetry.probe_port`; empty: nowhere.
    What may hold a secret (redis, control_url, mlflow_backend, features_url, events_url, jwt_secret, ranking_key,
    signing_key) and trusted_keys may be in a file instead, which `SLUICE_CONTROL_URL_FILE` and so on names.
    traces: where traces go and which, `endpoint=http://host:4318,ratio=0.01`, see `deploy.telemetry.settings`; empty:
    nowhere.
    fleet_tls, gateway_tls: see `serving.tls.settings`; empty: between gateways and workers, or at the gateway's own
    ports, there is no TLS.
    Raises SettingsError, naming key, value and rule.
    """

    home: Path
    gateway_host: str = "127.0.0.1"
    gateway_port: int = 8700
    grpc_port: int = 8702
    gateways: int = 1
    workers: int = 1
    worker_host: str = ""
    worker_port: int = 8710
    model_budgets: str = ""
    device_memory: str = ""
    model_weights: str = ""
    repository_control: bool = False
    shared_memory_regions: bool = False
    version_header: bool = False
    mlflow_port: int = 8701
    torch_threads: int = 1
    with_grpc: bool = True
    with_mlflow: bool = True
    with_controller: bool = True
    with_archiver: bool = True
    with_monitor: bool = True
    with_celery: bool = True
    triton_servers: str = ""
    control_url: str = ""
    control_address: str = ""
    mlflow: str = ""
    ranking_key: str = field(default="", repr=False)
    probe_address: str = ""
    mlflow_backend: str = ""
    redis: str = ""
    event_replicas: int = 0
    broker: str = ""
    features_url: str = ""
    events_url: str = ""
    device: str = "cpu"
    precision: str = "fp32"
    compile: str = "none"
    flow: str = ""
    rank_diff: str = ""
    drift: str = ""
    drift_reports: str = ""
    drift_segments: str = ""
    gates: str = ""
    retrain_anchor: str = "2026-01-05"
    retraining: str = ""
    train: str = ""
    run_limits: str = ""
    auth: str = ""
    quotas: str = ""
    jwt_issuer: str = ""
    jwt_audience: str = ""
    jwt_key_set: str = ""
    jwt_claims: str = ""
    jwt_secret: str = field(default="", repr=False)
    signing_key: str = field(default="", repr=False)
    trusted_keys: str = ""
    development: bool = False
    audit_days: int = 400
    traces: str = ""
    fleet_tls: str = ""
    gateway_tls: str = ""
    log_level: str = "INFO"
    replica: int = 0

    def __post_init__(self) -> None:
        _require(self.home.is_absolute(), "home", self.home, "an absolute path")
        _require(not self.home.exists() or self.home.is_dir(), "home", self.home, "a folder")
        _require("\n" not in str(self.home), "home", repr(str(self.home)), "a path without line breaks")
        _require(bool(self.gateway_host.strip()), "gateway_host", self.gateway_host, "an address to listen on")
        _require(1 <= self.worker_port <= 65535 - MAX_REPLICAS, "worker_port", self.worker_port, "a port")
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
            if text := getattr(self, key):
                try:
                    parse(text)
                except ValueError as error:
                    raise SettingsError(
                        _key(key),
                        "(secret)" if key in _SECRET else without_password(text),
                        _rule(str(error), text),
                    ) from error
        if self.device_memory:
            promised = sum(parse_budgets(self.model_budgets).values())
            rule = f"at most the device's memory, {self.device_memory}, for all models together"
            _require(promised <= parse_bytes(self.device_memory), "model_budgets", self.model_budgets, rule)
        for key in ("gateway_port", "grpc_port", "mlflow_port"):
            _require(0 <= getattr(self, key) <= 65535, key, getattr(self, key), "a port, or 0 for a free one")
        for key, others, rule in (
            ("mlflow_port", (self.gateway_port,), "another port than the gateway's"),
            ("grpc_port", (self.gateway_port, self.mlflow_port), "another port than the gateway's and MLflow's"),
        ):
            port = getattr(self, key)
            _require(port == 0 or port not in others, key, port, rule)
        for key, least in (("gateways", 1), ("workers", 0)):
            _require(least <= getattr(self, key) <= MAX_REPLICAS, key, getattr(self, key), f"{least} to {MAX_REPLICAS}")
        _require(0 <= self.event_replicas <= 8, "event_replicas", self.event_replicas, "0 to 8")
        _require(not self.mlflow or bool(_HTTP_URL.fullmatch(self.mlflow)), "mlflow", self.mlflow, "http://host:port")
        _require(
            not self.ranking_key or len(self.ranking_key) >= RANKING_KEY_CHARACTERS,
            *("ranking_key", "(set)", f"{RANKING_KEY_CHARACTERS} characters or more, the same for all gateways"),
        )
        _require(1 <= self.torch_threads <= 256, "torch_threads", self.torch_threads, "1 to 256")
        for key, holds, rule in device_rules(self.device, self.precision, self.compile):
            _require(holds, key, getattr(self, key), rule)
        self.triton_addresses  # noqa: B018 - raises if it cannot be read
        _require(self.auth in _AUTH, "auth", self.auth, f"{' or '.join(filter(None, _AUTH))}, or nothing")
        _require(1 <= self.audit_days <= 3660, "audit_days", self.audit_days, "1 to 3660")
        try:
            self.tokens  # noqa: B018 - raises if it is not whole
        except ValueError as error:
            key, _, told = str(error).partition("=")
            value, _, rule = told.rpartition(": expected ")
            raise SettingsError(_key("jwt_claims" if "." in key else key), without_password(value), rule) from error
        _require(self.log_level in _LEVELS, "log_level", self.log_level, f"one of {', '.join(_LEVELS)}")
        _require(0 <= self.replica < MAX_REPLICAS, "replica", self.replica, f"0 to {MAX_REPLICAS - 1}")

    @staticmethod
    def from_environment(environment: Mapping[str, str]) -> "PlatformSettings":
        """The settings that these variables ask for; an empty one counts as not set."""
        told = {name: raw for name in _names() if (raw := _told(environment, name))}
        home = Path(told.pop("home", ".sluice")).expanduser().absolute()
        return PlatformSettings(home=home, **{name: _parse(name, raw) for name, raw in told.items()})

    def to_environment(self) -> dict[str, str]:
        """The variables from which `from_environment` reads these settings again, whatever else is in the environment:
        what is empty here is not read from a file that is named there."""
        no_files = {f"{_key(name)}_FILE": "" for name in FROM_FILES}
        return no_files | {_key(name): _text(getattr(self, name)) for name in _names()}

    @property
    def gateway_url(self) -> str:
        """Where a client on this machine finds the gateway."""
        return f"{'https' if self.gateway_tls else 'http'}://{url_host(self.gateway_host)}:{self.gateway_port}"

    @property
    def queries_need_keys(self) -> bool:
        """Whether who asks a query must have a key or token: by default where others than this machine can ask."""
        if self.auth:
            return self.auth == "all"
        return not (self.gateway_host.startswith("127.") or self.gateway_host in ("::1", "localhost"))

    @property
    def tokens(self) -> TokenSettings:
        """Whose tokens are good."""
        return TokenSettings(
            *(self.jwt_issuer, self.jwt_audience, self.jwt_key_set),
            **parse_token_claims(self.jwt_claims),
            development=self.development,
            secret=self.jwt_secret.encode(),
        )

    @property
    def triton_addresses(self) -> dict[str, str]:
        """host:port by server name, of `triton_servers`."""
        rule = "name=host:port, separated by commas, each name once"
        addresses: dict[str, str] = {}
        for told in filter(None, self.triton_servers.split(",")):
            found = _TRITON_SERVER.fullmatch(told.strip())
            if not found or found["name"] in addresses or not 1 <= int(found["port"]) <= 65535:
                raise SettingsError(_key("triton_servers"), self.triton_servers, rule)
            addresses[found["name"]] = found["address"]
        return addresses

    @property
    def grpc_address(self) -> str:
        """Where a gRPC client on this machine finds the gateway, `host:port`."""
        return f"{url_host(self.gateway_host)}:{self.grpc_port}"

    @property
    def mlflow_url(self) -> str:
        """Where MLflow listens: the embedded one on this machine only."""
        return self.mlflow or f"http://127.0.0.1:{self.mlflow_port}"

    @property
    def redis_url(self) -> str:
        """Of what keeps events, plans and boards, see `features.url.RULE`; with its password."""
        return self.redis or f"unix://{self.redis_socket}"

    @property
    def rows_url(self) -> str:
        """Of what keeps feature rows, see `features.url.RULE`; with its password."""
        return self.features_url or self.redis_url

    @property
    def embedded_redis(self) -> bool:
        """Whether a Redis of the platform's own runs: if nothing else was named, or Celery has nowhere else to go."""
        return not self.redis or (self.with_celery and not self.broker and bool(FeaturesUrl.parse(self.redis).nodes))

    @property
    def broker_url(self) -> str:
        """Celery's, as kombu writes it; with its password."""
        url = self.broker or (f"unix://{self.redis_socket}" if self.embedded_redis else self.redis)
        return f"redis+socket://{url.removeprefix('unix://')}" if url.startswith("unix://") else url

    @property
    def redis_folder(self) -> Path:
        """Redis' append-only file and its configuration."""
        return self.home / "redis"

    @property
    def mlflow_folder(self) -> Path:
        """MLflow's database and artefacts."""
        return self.home / "mlflow"

    @property
    def mlflow_database(self) -> str:
        """SQLAlchemy's URL of MLflow's database; with its password."""
        return database_url(self.mlflow_backend or f"sqlite:///{self.mlflow_folder / 'mlflow.db'}")

    @property
    def artefacts_folder(self) -> Path:
        """What the MLflow server serves as artefacts."""
        return self.mlflow_folder / "artefacts"

    @property
    def control_database(self) -> str:
        """SQLAlchemy's URL of rollouts and traffic plans; with its password."""
        return database_url(self.control_url or f"sqlite:///{self.home / 'control.db'}")

    @property
    def controller_address(self) -> str:
        """Where gateways find the controller; empty if there is none."""
        if not self.with_controller and not self.control_address:
            return ""
        return self.control_address or str(UnixAddress(str(self.sockets_folder / "control.sock")))

    @property
    def admin_key_file(self) -> Path:
        """The API key of commands on this machine."""
        return self.home / "admin.key"

    @property
    def versions_folder(self) -> Path:
        """Verified copies of packages, `<model>/<version>/`."""
        return self.home / "versions"

    @property
    def archive_folder(self) -> Path:
        """Events as Parquet."""
        return self.home / "archive"

    @property
    def runs_folder(self) -> Path:
        """What runs of pipelines make, step by step."""
        return self.home / "runs"

    @property
    def collected_folder(self) -> Path:
        """Closed windows of the archive as judgements; made again if it is not there."""
        return self.home / "collected"

    @property
    def gates_folder(self) -> Path:
        """What online gates have read of the archive, summed; made again if it is not there."""
        return self.home / "gates"

    @property
    def datasets_folder(self) -> Path:
        """Data sets, made or converted."""
        return self.home / "datasets"

    @property
    def loads_folder(self) -> Path:
        """How far feature files are that were not loaded to their end."""
        return self.home / "loads"

    @property
    def journal_folder(self) -> Path:
        """The gateways' journals of events that are not in Redis yet."""
        return self.home / "journal"

    @property
    def reports_folder(self) -> Path:
        """Drift reports and evidence."""
        return self.home / "reports"

    @property
    def logs_folder(self) -> Path:
        """The log and its rotated parts."""
        return self.home / "logs"

    @property
    def log_file(self) -> Path:
        """The one log of all processes, JSON lines."""
        return self.logs_folder / "sluice.log"

    @property
    def run_folder(self) -> Path:
        """What only matters while the platform runs."""
        return self.home / "run"

    @property
    def metrics_folder(self) -> Path:
        """PROMETHEUS_MULTIPROC_DIR of all processes."""
        return self.run_folder / "metrics"

    @property
    def sockets_folder(self) -> Path:
        """Where Unix sockets lie: in the data folder, or if its path is too long for a socket
        address, in a private folder under the system's temporary one."""
        longest = os.fsencode(self.run_folder / f"worker-{MAX_REPLICAS}.sock")
        if len(longest) <= SOCKET_PATH_BYTES:
            return self.run_folder
        digest = hashlib.blake2b(os.fsencode(self.home), digest_size=8).hexdigest()
        return Path(tempfile.gettempdir()) / f"sluice-{os.getuid()}-{digest}"

    @property
    def redis_socket(self) -> Path:
        """Where the embedded Redis listens."""
        return self.sockets_folder / "redis.sock"

    @property
    def worker_addresses(self) -> tuple[str, ...]:
        """Where gateways find this machine's workers, by replica."""
        if not self.worker_host:
            return tuple(str(UnixAddress(str(path))) for path in self.worker_sockets)
        return tuple(str(TcpAddress(self.worker_host, self.worker_port + i)) for i in range(self.workers))

    @property
    def worker_sockets(self) -> tuple[Path, ...]:
        """Where the workers listen, by replica, if they listen on Unix sockets."""
        return tuple(self.sockets_folder / f"worker-{replica}.sock" for replica in range(self.workers))


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """Where commands find the control API, from `SLUICE_URL` (of a gateway) and `SLUICE_KEY`; both empty: the
    platform of the data folder and its own key. Told to commands only, never to processes of the platform."""

    url: str = ""
    key: str = field(default="", repr=False)

    @staticmethod
    def from_environment(environment: Mapping[str, str]) -> "ClientSettings":
        """What these variables say."""
        return ClientSettings(*(_told(environment, one.name) for one in dataclasses.fields(ClientSettings)))


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


def url_host(host: str) -> str:
    """The host as a client on this machine writes it into a URL.

    >>> url_host("0.0.0.0"), url_host("::"), url_host("fe80::1"), url_host("example.org")
    ('127.0.0.1', '[::1]', '[fe80::1]', 'example.org')
    """
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]" if ":" in host else host


def log_effective(settings: PlatformSettings, environment: Mapping[str, str]) -> None:
    """Tell the log what counts, and warn of variables that look like a misspelt setting.

    Only near misses: Kubernetes sets `SLUICE_*` variables of its own for services of that name.
    """
    shown = settings.to_environment() | {_key(name): without_password(getattr(settings, name)) for name in _SECRETIVE}
    shown |= {_key(name): "(set)" if getattr(settings, name) else "" for name in _SECRET}
    shown = {key: value for key, value in shown.items() if not key.endswith("_FILE")}
    logger.info("settings", extra={"settings": shown})
    known = [_key(name) for name in _names()] + [f"{_key(name)}_FILE" for name in FROM_FILES]
    for key in environment:
        if key.startswith(PREFIX) and key not in known and (near := difflib.get_close_matches(key, known, 1, 0.85)):
            logger.warning("%s is no setting: did you mean %s?", key, near[0])


def _told(environment: Mapping[str, str], name: str) -> str:
    """The variable's value, or, of what may be secret, that of the file that `..._FILE` names. Raises SettingsError."""
    raw = environment.get(_key(name), "").strip()
    path = environment.get(f"{_key(name)}_FILE", "").strip() if name in FROM_FILES and not raw else ""
    if not path:
        return raw
    try:
        return Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{_key(name)}_FILE", path, f"a file that can be read ({error})") from error


def _names() -> list[str]:
    return [field.name for field in dataclasses.fields(PlatformSettings) if field.name not in _UNSET]


def _key(name: str) -> str:
    return PREFIX + name.upper()


def _parse(name: str, raw: str) -> Any:
    wanted = {field.name: field.type for field in dataclasses.fields(PlatformSettings)}[name]
    if wanted is bool:
        _require(raw.lower() in _TRUE + _FALSE, name, raw, "1 or 0")
        return raw.lower() in _TRUE
    if wanted is int:
        _require(raw.isascii() and raw.removeprefix("-").isdigit(), name, raw, "a whole number")
        return int(raw)
    return raw


def _text(value: object) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)


def _require(holds: bool, name: str, value: object, rule: str) -> None:
    if not holds:
        raise SettingsError(_key(name), without_password(str(value)) if name in _SECRETIVE else value, rule)
