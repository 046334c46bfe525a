"""The registry for the one who calls: what is registered, admitting more, reading every byte again, repairing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stack.app.permission import Permission
from stack.audit.append import append
from stack.audit.record import AuditRecord
from stack.core.actions import Action
from stack.core.caller import Caller
from stack.core.clock import Clock
from stack.core.release import ArtifactFormat, ModelVersion
from stack.registry.admit import register
from stack.registry.catalogue import list_models, show, verify
from stack.registry.manifest import Manifest, load_manifest
from stack.registry.progress import Progress
from stack.registry.scrub import scrub
from stack.registry.store import ContentStore
from stack.rollout.observing import Observer
from stack.rollout.planner import Source
from stack.store.store import Store

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ModelDesk:
    """See ``stack/api/operator.py`` for the shapes."""

    store: Store
    content: ContentStore
    observer: Observer
    permission: Permission
    clock: Clock

    def models(self) -> Json:
        """Every registered model version, with the services' roles as aliases."""
        return {"models": [self._model(m) for m in list_models(self.content)]}

    def model(self, ref: str) -> Json:
        """One registered model version."""
        return self._model(show(self.content, ref))

    def register(self, path: str, format: str, on_progress: Callable[[Json], None], caller: Caller) -> Json:
        """Admit a manifest's artifact."""
        wanted: ArtifactFormat = "safetensors" if format == "safetensors" else "gguf"

        def told(progress: Progress) -> None:
            on_progress({"text": progress.file, "done": progress.done_bytes, "total": progress.total_bytes})

        manifest = load_manifest(Path(path))
        body = {"manifest": path, "format": wanted}
        self.permission.permitted(Action.REGISTER, f"{manifest.name}@{manifest.version}", body, "", caller)
        return self._model(self.admit(manifest, wanted, told, caller, ""))

    def verify(self, ref: str) -> Json:
        """Read every byte again."""
        return verify(self.content, ref).to_json()

    def scrub(self, repair_from: str | None, caller: Caller) -> Json:
        """Verify the whole store; repair from a second copy where one is given."""
        if repair_from:
            self.permission.permitted(Action.REPAIR, "content store", {"repair_from": repair_from}, "", caller)
        report = scrub(self.content, Path(repair_from) if repair_from else None)
        body = report.to_json()
        self._audit("registry.scrub", "store", "ok" if body.get("ok") else "damaged", {"report": body}, caller)
        return body

    def admit(
        self,
        manifest: Manifest,
        wanted: ArtifactFormat,
        told: Callable[[Progress], None] | None,
        caller: Caller,
        change: str,
    ) -> ModelVersion:
        """Register it, and put that on record under the change it belongs to (or none)."""
        model = register(manifest, wanted, self.content, told)
        self._audit(
            "model.register", model.ref, "ok", {"digest": str(model.artifact.digest), "format": wanted}, caller, change
        )
        return model

    def files(self, source: Source, wanted: ArtifactFormat) -> Path:
        """A directory with the model's files, for a look only."""
        if source.manifest is None:
            return self.content.materialise(source.artifact)
        return (source.manifest.base / source.manifest.roots[wanted]).absolute()

    def _audit(
        self, action: str, target: str, result: str, body: Mapping[str, Any], caller: Caller, change: str = ""
    ) -> None:
        record = AuditRecord(
            actor=caller.shown, action=action, target=target, change=change, result=result, body=dict(body)
        )
        with self.store.transaction() as tx:
            append(tx, record, self.clock)

    def _model(self, model: ModelVersion) -> Json:
        roles = self.observer.roles_of(model.ref, model.artifact.digest)
        return {
            "ref": model.ref,
            "format": model.artifact.format,
            "digest": str(model.artifact.digest),
            "bytes": sum(f.size for f in model.artifact.files),
            "files": len(model.artifact.files),
            "aliases": roles,
            "metadata": model.metadata,
        }
