"""What ``stack.yaml`` says, as frozen values. Each field declares how it is read, its default and its unit."""

# ruff: noqa: RUF009 - ``setting`` is ``dataclasses.field``; sections are frozen
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from stack.config import forms
from stack.config.fields import ListOf, Number, OneOf, Section, Text, Whole, setting
from stack.core.digest import Digest
from stack.core.names import HostName, ServiceName
from stack.core.release import ArtifactFormat, Engine, Launch

ENGINES = ("llamacpp", "vllm", "ollama")
FORMATS = ("gguf", "safetensors")
SECRETS = ("admin.token", "client.key", "probe.key", "checkpoint.key")
# Read only where they are listed in the stack file; never made.
OPTIONAL_SECRETS = ("database.password",)
# What each engine can open.
OPENS: Mapping[str, tuple[ArtifactFormat, ...]] = {
    "llamacpp": ("gguf",),
    "vllm": ("safetensors",),
    "ollama": ("gguf",),
}


OLLAMA = "127.0.0.1:11434"
"""Where Ollama listens unless it is told otherwise."""


@dataclass(frozen=True, kw_only=True)
class HostSettings:
    """A machine that runs replicas."""

    name: HostName = setting(Text(HostName))
    """What services and reports call it."""
    connection: Literal["local", "ssh"] = setting(OneOf(("local", "ssh")), "local")
    """How Ansible reaches it."""
    address: str = setting(Text(forms.address), "127.0.0.1")
    """Where SSH and the gateway reach it: host name or IP. Required for ssh."""
    user: str = setting(Text(forms.user_name), "")
    """The SSH user; empty: whoever runs the control plane."""
    port: int = setting(Whole(1, 65535), 22)
    """The SSH port."""
    group: Literal["cpu", "gpu"] = setting(OneOf(("cpu", "gpu")), "cpu")
    """What it computes with."""
    memory_mb: int = setting(Whole(0, 16_777_216), 0)
    """MiB that replicas may take there together, measured or reckoned; 0: all that is free."""
    root: PurePosixPath | None = setting(Text(forms.absolute), None)
    """Where on an SSH host everything is put; none: /opt/stack. Local hosts have STACK_HOME/hosts/<name>."""
    python: PurePosixPath | None = setting(Text(forms.absolute), None)
    """The Python 3.11+ that runs there; none: an SSH host's python3, and here the one that runs this program."""
    share: Literal["nothing", "artifacts"] = setting(OneOf(("nothing", "artifacts")), "nothing")
    """What other hosts may take from it, over TLS, where that is faster than from here: artifacts that it runs."""
    ollama: str = setting(Text(forms.server), OLLAMA)
    """Where Ollama listens, as the host itself reaches it. Only for releases that run on Ollama."""


@dataclass(frozen=True, kw_only=True)
class RuntimeSettings:
    """The engine, and the package it comes from. The lock file of that name says the version, and all it needs."""

    engine: Engine = setting(OneOf(ENGINES), "llamacpp")
    """One of the drivers."""
    distribution: str = setting(Text(forms.word), "xllamacpp")
    """The package that brings the engine."""
    version: str = setting(Text(forms.version), "")
    """A locked version; empty: the default lock's. Ollama is not locked: the version that its servers say."""


@dataclass(frozen=True, kw_only=True)
class LaunchSettings:
    """Launch parameters; part of the release."""

    context: int = setting(Whole(64, 1_048_576), Launch.context)
    """Tokens per slot."""
    parallel: int = setting(Whole(1, 1024), Launch.parallel)
    """Requests computed side by side, per replica."""
    threads: int = setting(Whole(1, 1024), Launch.threads)
    """CPU threads per replica."""
    tensor_parallel: int = setting(Whole(1, 64), Launch.tensor_parallel)
    """Accelerators of one host that a replica is spread over. Only for vllm/vllm."""


@dataclass(frozen=True, kw_only=True)
class SuiteSettings:
    """Prompts with known answers. Missing: models/evals/<service>-smoke.yaml and -eval.yaml beside the manifest."""

    smoke: Path = setting(Text(Path), Path())
    """Gates warm-up; every prompt must pass."""
    evaluation: Path = setting(Text(Path), Path(), key="eval")
    """Compares candidate and stable, paired."""


@dataclass(frozen=True, kw_only=True)
class HoldSettings:
    """How much evidence a slice of traffic needs before it is judged."""

    min_requests: int = setting(Whole(1, 1_000_000), 60)
    """Requests on the candidate at least. The error rate mostly needs more to be shown: docs/verdict.md."""
    min_seconds: float = setting(Number(0, 86_400), 2.0)
    """Seconds at least."""
    max_seconds: float = setting(Number(1, 604_800), 120.0)
    """Seconds after which too little evidence is INCONCLUSIVE, and the rollout pauses."""


@dataclass(frozen=True, kw_only=True)
class ThresholdSettings:
    """What the evidence must show."""

    max_error_rate: float = setting(Number(0.0001, 0.5), 0.05)
    """Share of failed requests, 0-1."""
    max_latency_p95_s: float = setting(Number(0.001, 3600), 8.0)
    """95th percentile of whole answers, seconds."""
    max_latency_ratio: float = setting(Number(1, 100), 3.0)
    """Candidate's p95 over stable's."""
    max_ttft_p95_s: float = setting(Number(0.001, 3600), 4.0)
    """95th percentile of the time to the first token, seconds."""
    max_quality_drop: float = setting(Number(0, 0.5), 0.02)
    """Loss of pass rate against stable on the eval suite, 0-1."""
    min_pass_rate: float = setting(Number(0.01, 1), 0.8)
    """Pass rate of a first release, which has nothing to be compared with, 0-1."""
    confidence: float = setting(Number(0.8, 0.9999), 0.95)
    """Of every interval, 0-1."""


@dataclass(frozen=True, kw_only=True)
class TimeoutSettings:
    """How long steps on hosts may take."""

    ready_s: float = setting(Number(1, 86_400), 300.0)
    """Seconds from start until the engine answers."""
    place_s: float = setting(Number(1, 86_400), 900.0)
    """Seconds to install the runtime and copy the artifact."""
    warm_s: float = setting(Number(1, 86_400), 60.0)
    """Seconds for each warm-up completion."""


@dataclass(frozen=True, kw_only=True)
class RolloutSettings:
    """How a new release takes over."""

    ladder: tuple[int, ...] = setting(ListOf(Whole(1, 100), 20), (5, 25, 100))
    """Per cent of traffic, step by step; rises, and ends with 100."""
    hold: HoldSettings = setting(Section(HoldSettings), HoldSettings())
    """Evidence each step waits for."""
    thresholds: ThresholdSettings = setting(Section(ThresholdSettings), ThresholdSettings())
    """Limits the evidence is held against."""
    replay: Literal["auto", "off"] = setting(OneOf(("auto", "off")), "auto")
    """auto: on a quiet service the eval suite is replayed through the slice. off: only clients' traffic counts."""
    tolerate_hosts: int = setting(Whole(0, 999), 0)
    """How many of the hosts may fail while a release is placed: the others go on without them. More: it is put back."""
    longest_pause_s: float = setting(Number(0, 300), 0.0)
    """Seconds that requests may wait where a release fits only once the old one has ended; 0: never, it is refused."""
    timeouts: TimeoutSettings = setting(Section(TimeoutSettings), TimeoutSettings())
    """Bounds of single steps."""


@dataclass(frozen=True, kw_only=True)
class ServiceSettings:
    """A public model name, and what should serve it."""

    name: ServiceName = setting(Text(ServiceName))
    """What clients put into ``model``."""
    model: Path = setting(Text(Path))
    """The manifest to deploy; relative to the stack file."""
    format: ArtifactFormat = setting(OneOf(FORMATS), "gguf")
    """Which of the manifest's artifacts."""
    runtime: RuntimeSettings = setting(Section(RuntimeSettings), RuntimeSettings())
    """What runs it."""
    launch: LaunchSettings = setting(Section(LaunchSettings), LaunchSettings())
    """With which parameters."""
    hosts: tuple[HostName, ...] = setting(ListOf(Text(HostName), 1000), (HostName("local"),))
    """Where; names from ``hosts``."""
    replicas: int = setting(Whole(1, 64), 1)
    """Processes per host."""
    suites: SuiteSettings = setting(Section(SuiteSettings), SuiteSettings())
    """What proves it."""
    rollout: RolloutSettings = setting(Section(RolloutSettings), RolloutSettings())
    """How a change is made."""


@dataclass(frozen=True, kw_only=True)
class GatewaySettings:
    """The data plane. Its port is not here: STACK_GATEWAY_PORT, so that several checkouts can run side by side."""

    host: str = setting(Text(forms.ip_address), "127.0.0.1")
    """The IP address it listens on."""
    first_byte_timeout_s: float = setting(Number(0.1, 3600), 30.0)
    """Seconds until a replica's first byte; then the next replica is asked."""
    max_body_mb: int = setting(Whole(1, 1024), 32)
    """Largest request, MiB."""


@dataclass(frozen=True, kw_only=True)
class SinkSettings:
    """A place off this machine's database that keeps checkpoints. Exactly one of file, command and http."""

    name: str = setting(Text(forms.word))
    """What `stackctl audit head` calls it."""
    file: PurePosixPath | None = setting(Text(forms.absolute), None)
    """A file to which checkpoints are appended; on another mount, or it proves little."""
    command: tuple[str, ...] = setting(ListOf(Text(), 32), ())
    """A program and its arguments; gets the checkpoint on its standard input. Nothing secret in it."""
    http: str = setting(Text(forms.web_url), "")
    """A URL to which checkpoints are posted."""
    timeout_s: float = setting(Number(0.1, 300), 10.0)
    """Seconds until a command or a POST has failed, and is tried again later."""


@dataclass(frozen=True, kw_only=True)
class CheckpointSettings:
    """When the audit log's Merkle tree is signed, and where the signed checkpoints go."""

    every_s: float = setting(Number(0.1, 86_400), 60.0)
    """Seconds after a record at which it is in a checkpoint at the latest."""
    every_records: int = setting(Whole(1, 1_000_000), 100)
    """Records after which a checkpoint is made earlier."""
    sinks: tuple[SinkSettings, ...] = setting(ListOf(Section(SinkSettings), 16), ())
    """Where they go; none: STACK_HOME/checkpoints.log, which is not off this host."""


@dataclass(frozen=True, kw_only=True)
class AuditSettings:
    """The audit log."""

    checkpoints: CheckpointSettings = setting(Section(CheckpointSettings), CheckpointSettings())
    """What lets others check it."""


@dataclass(frozen=True, kw_only=True)
class SecretSettings:
    """Where one secret comes from. Those that are not listed are files of STACK_HOME/secrets."""

    name: str = setting(OneOf((*SECRETS, *OPTIONAL_SECRETS)))
    """Which one."""
    origin: Literal["file", "environment", "vault"] = setting(OneOf(("file", "environment", "vault")), key="from")
    """The kind of place."""
    path: str = setting(Text(), "")
    """From a file: the file, mode 0600, relative to the stack file. From Vault: the path of the KV version 2 secret."""
    variable: str = setting(Text(forms.variable), "")
    """From the environment: the variable. It is taken out of the environment of everything that is started."""
    mount: str = setting(Text(forms.mount), "secret")
    """From Vault: where its KV version 2 engine is mounted."""
    key: str = setting(Text(), "")
    """From Vault: the field of the secret."""
    version: int = setting(Whole(0, 1_000_000_000), 0)
    """From Vault: the version; 0: the newest."""


@dataclass(frozen=True, kw_only=True)
class VaultSettings:
    """The Vault that secrets come from. Files that are named here are private (0600)."""

    address: str = setting(Text())
    """https://host:port; plain http only on this machine."""
    namespace: str = setting(Text(forms.mount), "")
    """Of Vault Enterprise; empty: none."""
    ca_file: Path | None = setting(Text(Path), None)
    """The certificates that prove who it is; none: those of the operating system's Python."""
    auth: Literal["token", "approle"] = setting(OneOf(("token", "approle")), "token")
    """How we log in."""
    token_file: Path | None = setting(Text(Path), None)
    """For token: the file that holds it."""
    role_id_file: Path | None = setting(Text(Path), None)
    """For approle."""
    secret_id_file: Path | None = setting(Text(Path), None)
    """For approle."""
    approle_mount: str = setting(Text(forms.mount), "approle")
    """Where the AppRole method is mounted."""
    timeout_s: float = setting(Number(0.1, 120), 5.0)
    """Seconds until an answer."""


@dataclass(frozen=True, kw_only=True)
class Document:
    """The file's top level, as written."""

    schema: str = setting(OneOf(("1",)), "1")
    """The layout of this file."""
    environment: str = setting(Text(forms.word), "dev")
    """What policies distinguish: dev, staging, production."""
    policies: Path = setting(Text(Path), Path("policies"))
    """The directory that says who must agree to what; relative to this file."""
    hosts: tuple[HostSettings, ...] = setting(
        ListOf(Section(HostSettings), 1000), (HostSettings(name=HostName("local")),)
    )
    """The inventory."""
    inventory: Path | None = setting(Text(Path), None)
    """An Ansible inventory file whose hosts in the groups cpu and gpu are added to ``hosts``; relative to this file."""
    services: tuple[ServiceSettings, ...] = setting(ListOf(Section(ServiceSettings), 1000))
    """What is served."""
    gateway: GatewaySettings = setting(Section(GatewaySettings), GatewaySettings())
    """The data plane."""
    secrets: tuple[SecretSettings, ...] = setting(ListOf(Section(SecretSettings), 20), ())
    """Where secrets come from that are no files of the state directory."""
    vault: VaultSettings | None = setting(Section(VaultSettings), None)
    """The server of those that come from Vault."""
    audit: AuditSettings = setting(Section(AuditSettings), AuditSettings())
    """The audit log."""
    database: str = setting(Text(forms.database_url), "")
    """Where state is kept: postgresql://user@host/database?sslmode=verify-full, or nothing: STACK_HOME/state.db. The
    variable STACK_DATABASE goes before it."""


@dataclass(frozen=True, kw_only=True)
class StackSettings:
    """Desired state: every reference resolved, every path absolute. ``digest`` is of the file's bytes."""

    environment: str
    hosts: Mapping[HostName, HostSettings]
    services: Mapping[ServiceName, ServiceSettings]
    gateway: GatewaySettings
    path: Path
    digest: Digest
    secrets: tuple[SecretSettings, ...] = ()
    vault: VaultSettings | None = None
    audit: AuditSettings = AuditSettings()
    policies: Path = Path("policies")
    database: str = ""
    inventory: Path | None = None

    @property
    def secrets_elsewhere(self) -> frozenset[str]:
        """The secrets that are no files of the state directory."""
        return frozenset(found.name for found in self.secrets if found.origin != "file" or found.path)

    @property
    def secret_variables(self) -> tuple[str, ...]:
        """The environment variables that secrets are configured to come from."""
        return tuple(found.variable for found in self.secrets if found.origin == "environment")
