"""Describe wrong usage in one line, in this package's words, and suggest what was meant.

The argument parser's own messages differ between versions and speak of its internals.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from filtersurgeon.errors import near_misses, printable

_COMMANDS = {
    "rank": ("score", "scores", "importance", "ranking", "criterion"),
    "prune": ("compress", "slim", "channelprune", "shrink", "thin", "sparsify"),
    "replace": ("substitute", "approximate"),
    "initialize": ("init", "initialise"),
    "tune": ("train", "finetune", "fine-tune", "retrain", "fit", "distill", "distil"),
    "apply": ("recipe", "run"),
    "export": ("onnx", "save", "trace"),
    "inspect": ("info", "summary", "show", "list", "layers", "stats", "channels"),
    "eval": ("evaluate", "test", "val", "validate", "accuracy", "benchmark"),
    "compare": ("diff", "latency", "profile"),
    "explain": ("spectrum", "spectra", "frequencies"),
    "activations": ("features", "feature-maps", "maps"),
    "gradcam": ("cam", "grad-cam", "heatmap", "saliency", "attribute"),
    "maximize": ("maximise", "dream", "deepdream", "visualize", "visualise"),
    "embed": ("tsne", "t-sne", "umap", "pca", "embeddings"),
    "walk": ("3d", "vr", "view"),
    "report": ("html",),
    "doctor": ("version", "check", "env", "environment"),
    "bank": ("banks",),
    "convert": ("modify", "activation"),
    "fabricate": ("generate", "sample"),
    "unpack": ("decompress", "restore"),
}
"""Words of other tools for a command."""

_OPTIONS = {
    "--sparsity": (
        "--amount", "--ratio", "--pruning-ratio", "--prune-ratio", "--pruning-rate", "--rate",
        "--fraction", "--percent", "--percentage", "--ch-sparsity",
    ),
    "--target macs=0.5x": ("--flops", "--macs", "--speedup", "--speed-up", "--budget"),
    "--target params=0.5x": ("--params", "--parameters", "--model-size"),
    "--target latency=0.7x": ("--latency", "--speed"),
    "--method": ("--importance", "--criterion", "--norm", "--pruner", "--ranking", "--algorithm"),
    "--data": (
        "--dataset", "--images", "--image-dir", "--data-dir", "--data-path", "--datadir",
        "--train-data", "--val-data", "--calibration",
    ),
    "--arch": ("--model", "--net", "--network", "--architecture", "--model-name", "--backbone"),
    "--lr": ("--learning-rate",),
    "--batch-size": ("--batch", "--bs"),
    "--workers": ("--num-workers", "--threads", "--processes"),
    "--optimizer": ("--opt", "--optim"),
    "-p NAME=VALUE": (
        "--weight-decay", "--wd", "--momentum", "--label-smoothing", "--mixup", "--cutmix",
        "--warmup-epochs", "--schedule", "--sched", "--clip-grad", "--ema-decay",
    ),
    "--device cuda": ("--gpu", "--gpus", "--cuda"),
    "--output": ("--out", "--save", "--output-dir", "--out-dir", "--outfile", "--dest"),
    "--force": ("--overwrite", "--yes", "--replace"),
    "--input-size": ("--img-size", "--imgsz", "--image-size", "--input-shape"),
    "--classes": ("--num-classes", "--nc"),
    "--teacher": ("--distill", "--distil", "--kd"),
    "--freeze": ("--frozen", "--fix"),
    "--layers '!GLOB'": (
        "--ignored-layers", "--ignore", "--ignore-layers", "--exclude", "--skip-layers",
    ),
    "--layers": ("--layer", "--include", "--modules"),
    "--against": (
        "--other", "--reference", "--second", "--compare", "--original", "--baseline", "--pruned",
        "--with",
    ),
    "--round-to": ("--round", "--multiple", "--divisor", "--divisible-by"),
    "--per-layer": ("--local", "--layerwise", "--layer-wise", "--uniform"),
    "--picture": ("--plot", "--fig", "--figure", "--png"),
    "--seed": ("--random-seed", "--random-state"),
    "--subset": ("--samples", "--num-samples", "--limit", "--max-images"),
    "--image": ("--img", "--input-image"),
    "--key": ("--state-dict", "--state-dict-key"),
    "--bank": ("--filters", "--kernels"),
}  # fmt: skip
"""Words of other tools for an option, and how it is written here."""

FORMER = {
    "--arch-b": "--arch-against",
    "--before": "--against",
    "--beside": "--against",
    "--factory-b": "--factory-against",
    "--list-methods": "--list",
    "--list-studies": "--list",
    "--saliency-b": "--saliency-against",
}
"""Former spellings of options, which still work but are not shown."""

_BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("above", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("below", "lt"),
}


def write_anew(words: Sequence[str], command: Any) -> list[str]:
    """Write former spellings of options as the command spells them now."""
    known = {x for each in command.params for x in (*each.opts, *each.secondary_opts)}
    written = []
    for word in words:
        name, equals, value = word.partition("=")
        new = FORMER.get(name)
        written.append(f"{new}{equals}{value}" if new in known and name not in known else word)
    return written


def unknown_command(word: str, context: Any) -> str:
    """Describe a command that there is not, with the one that other tools mean by it."""
    path, known = context.command_path, list(context.command.commands)
    means = next((k for k, peers in _COMMANDS.items() if k in known and word.lower() in peers), "")
    hint = f"; did you mean {means}?" if means else near_misses(word, known)
    return f"{path} has no command {printable(word)}{hint or f'; see {path} --help'}"


def describe_usage(error: Any) -> str:
    """Describe an error of the argument parser.

    Args:
        error: a usage error of typer, which does not export its class.
    """
    path = error.ctx.command_path if getattr(error, "ctx", None) else "fsurgeon"
    message = _describe(error)
    return message if message.endswith("?") else f"{message}; see {path} --help"


def _describe(error: Any) -> str:
    message = str(error.format_message()).rstrip(".")
    name = getattr(error, "option_name", None)
    if hasattr(error, "possibilities"):
        return _unknown_option(str(name), error.ctx)
    if name:
        return f"{name} takes no value" if "not take" in message else f"{name} needs a value"
    parameter = getattr(error, "param", None)
    if message.startswith("Missing command"):
        return f"no command; pass one of {', '.join(error.ctx.command.commands)}"
    if parameter is None:
        extra = re.search(r"unexpected extra arguments?(?:\(s\))? \((.*)\)", message, re.DOTALL)
        return f"too many arguments: {extra[1]}" if extra else message
    written = _written(parameter)
    if "Missing" in message:
        return f"{written} is missing"
    return f"{written} {_fault(error)}"


def _written(parameter: Any) -> str:
    """Write an option as ``--epochs``, an argument as help shows it."""
    if parameter.param_type_name == "argument":
        return str(parameter.make_metavar(None)) if not parameter.metavar else parameter.metavar
    return str(next((word for word in parameter.opts if word[:2] == "--"), parameter.opts[0]))


def _fault(error: Any) -> str:
    """Say what a value should be, from the cause of the error or from its words."""
    listed = getattr(error.__cause__, "errors", None)
    if listed is not None:
        found = listed()[0]
        kind, value = found["type"], printable(str(found["input"]))
        if kind in _BOUNDS:
            words, key = _BOUNDS[kind]
            return f"{value} should be {words} {found['ctx'][key]:g}"
        return f"{value} should be {_expected(kind)}"
    text = str(error.message).rstrip(".")
    bounds = re.fullmatch(r"(\S+) is not in the range (.*)", text)
    if bounds:
        return f"{bounds[1]} should be in the range {bounds[2]}"
    typed = re.fullmatch(r"'?(.*?)'? is not a valid (\w+)(?: range)?", text, re.DOTALL)
    return f"{typed[1]} should be {_expected(typed[2])}" if typed else text


def _expected(kind: str) -> str:
    if kind.startswith("int"):
        return "a whole number"
    return "a number" if kind.startswith("float") else "another value"


def _unknown_option(word: str, context: Any) -> str:
    """Describe an option that there is not, with the nearest one, or what it is called here."""
    command = context.command
    known = [x for each in command.params for x in (*each.opts, *each.secondary_opts)]
    known = [x for x in known if x.startswith("-")]
    dashed = word.lower().replace("_", "-")
    means = next(
        (k for k, peers in _OPTIONS.items() if dashed in peers and k.split()[0] in known), ""
    )
    if dashed in known:
        means = dashed
    if not means and word.startswith("--"):
        names = [x[2:] for x in known if x.startswith("--")]
        means = " or ".join(f"--{x}" for x in get_close_matches(dashed[2:], names, 2))
    hint = f"; did you mean {means}?" if means else ""
    return f"{context.command_path} has no option {printable(word)}{hint}"
