"""What can go wrong in the registry, each error with what the operator can do about it."""

from __future__ import annotations

from stack.core.errors import Conflict, InvalidInput, Refused, Unavailable


class ManifestInvalid(InvalidInput):
    """{manifest} has {count} mistake(s): {summary}"""

    hint = "Correct every line named here; nothing was registered."


class UnsafePath(InvalidInput):
    """{path} can't be opened as part of the artifact: {reason}."""

    hint = "An artifact's files are regular files below its root, reached without symbolic links."


class HeaderInvalid(InvalidInput):
    """{path} is not a usable model file: {reason}."""

    hint = "The file is damaged, cut off, or not what its name says: fetch or export it again and compare its digest."


class IncompleteArtifact(InvalidInput):
    """The {format} artifact lacks {missing}, which the runtime needs."""

    hint = "Export the model with its tokenizer and chat template, add the files to the manifest and register again."


class PickleRefused(InvalidInput):
    """{path} is refused: {reason}."""

    hint = "Convert the weights to safetensors or GGUF: loading a pickle runs whatever code is in it."


class UnknownModel(InvalidInput):
    """{ref} names no registered model version: {detail}."""

    hint = "`stackctl model list` shows what is registered; a reference reads name@version or name@version:format."


class DigestMismatch(Refused):
    """Refused: {path} does not have the digest it should: expected {expected}, found {found}."""

    hint = "The file was damaged or replaced: fetch it again, or correct the manifest if the new content is intended."


class ObjectDamaged(Refused):
    """Refused: the stored copy of {path} ({digest}) is {state}."""

    hint = "Run `stackctl model scrub --repair-from <tree or second store>`, or register the model again."


class RecordDamaged(Refused):
    """Refused: the registry's record {record} can't be trusted: {reason}."""

    hint = "Move the record away and register the model again from its manifest."


class VersionTaken(Conflict):
    """{ref} is already registered with other content ({registered}, not {offered})."""

    hint = "A version never changes its content: give the new files a new version."


class SourceChanged(Conflict):
    """{path} changed while it was being read."""

    hint = "Wait until whatever writes the file is done, then register again."


class DiskFull(Unavailable):
    """The store at {store} has no room for {path}: {detail}."""

    hint = "Free space on that file system, or move the store to a larger one; nothing was registered."


class StoreUnavailable(Unavailable):
    """The store at {store} can't be used: {detail}."""

    hint = "Check the path, its owner and its permissions."
