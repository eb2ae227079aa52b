"""Command line: check, show, sign, export or publish a release.

python -m dpdm_jax.release verify FOLDER [--public-key FILE] [--json]
python -m dpdm_jax.release show FOLDER
python -m dpdm_jax.release make-key FILE
python -m dpdm_jax.release sign FOLDER --key FILE
python -m dpdm_jax.release export FOLDER --out FOLDER [--preset NAME] [--batch_size N]
python -m dpdm_jax.release push FOLDER OWNER/NAME|file:FOLDER [--public-key FILE]
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

import dpdm_jax
from dpdm_jax import conditions, json_values, streams
from dpdm_jax.errors import InputError, reason
from dpdm_jax.release import bundle, exported, push, signing
from dpdm_jax.release.verify import Verification, verify
from dpdm_jax.user_paths import user_path


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: the command line without the program's name; None for the process's.

    Returns:
        The exit status: 0 if all is well, 1 if the release is not intact or a key
        cannot be used.
    """
    parser = argparse.ArgumentParser(
        prog="python -m dpdm_jax.release",
        description="Check, show, sign, export or publish a release.",
    )
    parser.add_argument(
        "--version", action="version", version=f"dpdm_jax {dpdm_jax.__version__}"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser(
        "verify", help="recompute epsilon, check sums and sizes"
    )
    check.add_argument("folder", type=_path)
    check.add_argument("--json", action="store_true", help="print one JSON line")
    check.add_argument("--public-key", type=_path, help="it must be signed by this key")
    show = commands.add_parser("show", help="print the statement, unchecked")
    show.add_argument("folder", type=_path)
    make = commands.add_parser("make-key", help="make a key to sign releases with")
    make.add_argument("file", type=_path)
    sign = commands.add_parser("sign", help="check a release, and sign it")
    sign.add_argument("folder", type=_path)
    sign.add_argument("--key", type=_path, required=True)
    export = commands.add_parser(
        "export", help="write a sampler that needs JAX and NumPy alone"
    )
    export.add_argument("folder", type=_path)
    export.add_argument("--out", type=_path, required=True, help="a new folder")
    export.add_argument("--preset", default="", help="one of its sampler presets")
    export.add_argument("--batch_size", type=int, help="images of one call")
    put = commands.add_parser("push", help="check a release, and publish it")
    put.add_argument("folder", type=_path)
    put.add_argument(
        "target", help="OWNER/NAME, a repository of Hugging Face's hub, or file:FOLDER"
    )
    put.add_argument("--public-key", type=_path, help="it must be signed by this key")
    put.add_argument(
        "--private",
        action="store_true",
        help="make a repository that others cannot see",
    )
    arguments = parser.parse_args(argv)
    try:
        match arguments.command:
            case "show":
                return _show(arguments.folder)
            case "make-key":
                public = signing.make_key(arguments.file)
                print(f"Keep private: {arguments.file}\nMake known: {public}")
                return 0
            case "export":
                return _export(arguments)
            case "push":
                return _push(arguments)
            case "sign":
                return _sign(arguments.folder, arguments.key)
            case _:
                return _verify(arguments)
    except InputError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1


def _path(text: str) -> pathlib.Path:
    try:
        return user_path("the path", text)
    except InputError as e:
        raise argparse.ArgumentTypeError(str(e)) from None


def _verify(arguments: argparse.Namespace) -> int:
    outcome = verify(arguments.folder, arguments.public_key)
    if arguments.json:
        print(
            json_values.dumps({"release": str(arguments.folder), **outcome.to_dict()})
        )
    elif outcome.ok:
        print(_praise(arguments.folder, outcome))
        if arguments.public_key is not None:
            print(f"It is signed by the key {arguments.public_key}.")
        for note in outcome.notes:
            print(note)
    else:
        print("\n".join(outcome.failures))
    return 0 if outcome.ok else 1


def _sign(folder: pathlib.Path, key: pathlib.Path) -> int:
    signing.read_private_key(key)
    outcome = verify(folder)
    if not outcome.ok:
        print("\n".join(outcome.failures))
        return 1
    signing.sign(folder, key)
    print(f"{folder / bundle.SIGNATURE} signs all that {bundle.CHECKSUMS} lists.")
    return 0


def _export(arguments: argparse.Namespace) -> int:
    written = exported.write_apart(
        arguments.folder,
        arguments.out,
        preset=arguments.preset,
        batch_size=arguments.batch_size,
    )
    print(f"{written / exported.README} says how to sample with what is beside it.")
    return 0


def _push(arguments: argparse.Namespace) -> int:
    outcome = push.push(
        arguments.folder,
        arguments.target,
        public_key=arguments.public_key,
        private=arguments.private,
    )
    if not outcome.ok:
        print("\n".join(outcome.failures))
        print(
            f"error: {arguments.folder} is no intact release and was not pushed; "
            "allowed: one that verifies.",
            file=sys.stderr,
        )
        return 1
    print(_praise(arguments.folder, outcome))
    print("\n".join([*outcome.notes, f"Pushed to {arguments.target}."]))
    return 0


def _praise(folder: pathlib.Path, outcome: Verification) -> str:
    fields = outcome.to_dict()
    claim = "It is NOT PRIVATE, and says so"
    if public := outcome.statement.get("public_data"):
        claim = f"It is of public data ({public}), and protects none of it"
    if fields["private"]:
        claim = (
            f"epsilon = {fields['epsilon']} at delta = {fields['delta']!r}, recomputed "
            f"with {fields['recomputed_with']} ({fields['accountant'].upper()}); the "
            f"unit is {fields['unit_of_privacy']}"
        )
    return f"{folder} is intact: {fields['num_parameters']} parameters. {claim}."


def _show(folder: pathlib.Path) -> int:
    try:
        manifest = bundle.read_manifest(folder)
        text = (folder / bundle.PRIVACY_TEXT).read_text(encoding="utf-8")
        height, width, channels = manifest["model"]["image_shape"]
        about = (
            f"{manifest['name']}: {manifest['num_parameters']} parameters stored as "
            f"{manifest['dtype']}, images of {height} x {width} x {channels}, "
            f"{conditions.from_dict(manifest['model'])}. Not checked here: verify "
            "does.\n"
        )
    except InputError:
        raise
    except (OSError, *bundle.MALFORMED) as e:
        print(
            f"error: {folder} cannot be shown ({reason(e)}); allowed: an undamaged "
            "release.",
            file=sys.stderr,
        )
        return 1
    print(about)
    print(text, end="")
    return 0


if __name__ == "__main__":
    with streams.tolerated():
        sys.exit(main())
