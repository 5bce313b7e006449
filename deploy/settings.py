"""PlatformSettings: what one installation is told, read once from `SLUICE_*`; and what follows from it.

Nothing else in Sluice reads the environment. The supervisor passes its effective values on to
its children with `to_environment`, so that all of them see the same.
"""

import dataclasses
import difflib
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from deploy.data_folder import DataFolder
from deploy.database_url import database_url
from deploy.errors import SettingsError
from deploy.features.url import FeaturesUrl, without_password
from deploy.setting_rules import check
from deploy.variables import FROM_FILES, PREFIX, SECRET, SECRETIVE, text_of, told, value_of, variable
from serving.addresses import TcpAddress, UnixAddress
from serving.settings import TokenSettings, parse_token_claims

logger = logging.getLogger(__name__)

_TRITON_SERVER = re.compile(r"(?P<name>[A-Za-z0-9._-]{1,64})=(?P<address>[^\s=,/]+:(?P<port>\d{1,5}))")
_UNSET = frozenset({"replica"})  # told to a process by its name, not by the environment


@dataclass(frozen=True, slots=True)
class PlatformSettings(DataFolder):
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
        check(self)

    @staticmethod
    def from_environment(environment: Mapping[str, str]) -> "PlatformSettings":
        """The settings that these variables ask for; an empty one counts as not set."""
        texts = {name: raw for name in _names() if (raw := told(environment, name))}
        home = Path(texts.pop("home", ".sluice")).expanduser().absolute()
        kinds = {field.name: field.type for field in dataclasses.fields(PlatformSettings)}
        return PlatformSettings(home=home, **{name: value_of(name, raw, kinds[name]) for name, raw in texts.items()})

    def to_environment(self) -> dict[str, str]:
        """The variables from which `from_environment` reads these settings again, whatever else is in the environment:
        what is empty here is not read from a file that is named there."""
        no_files = {f"{variable(name)}_FILE": "" for name in FROM_FILES}
        return no_files | {variable(name): text_of(getattr(self, name)) for name in _names()}

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
        for server in filter(None, self.triton_servers.split(",")):
            found = _TRITON_SERVER.fullmatch(server.strip())
            if not found or found["name"] in addresses or not 1 <= int(found["port"]) <= 65535:
                raise SettingsError(variable("triton_servers"), self.triton_servers, rule)
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
    def mlflow_database(self) -> str:
        """SQLAlchemy's URL of MLflow's database; with its password."""
        return database_url(self.mlflow_backend or f"sqlite:///{self.mlflow_folder / 'mlflow.db'}")

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
        return ClientSettings(*(told(environment, one.name) for one in dataclasses.fields(ClientSettings)))


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
    shown = settings.to_environment() | {
        variable(name): without_password(getattr(settings, name)) for name in SECRETIVE
    }
    shown |= {variable(name): "(set)" if getattr(settings, name) else "" for name in SECRET}
    shown = {key: value for key, value in shown.items() if not key.endswith("_FILE")}
    logger.info("settings", extra={"settings": shown})
    known = list(settings.to_environment())
    for key in environment:
        if key.startswith(PREFIX) and key not in known and (near := difflib.get_close_matches(key, known, 1, 0.85)):
            logger.warning("%s is no setting: did you mean %s?", key, near[0])


def _names() -> list[str]:
    return [field.name for field in dataclasses.fields(PlatformSettings) if field.name not in _UNSET]
