"""Makes the encoders that come with rlrep: trains each, probes it for the state, and writes its card.

python -m rlrep.experiments.encoders                                    all of them, into rlrep/pretrained
python -m rlrep.experiments.encoders gridworld_iid --out encoders       one of them, elsewhere
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rlrep.encoder_files import SHIPPED_FOLDER
from rlrep.experiments.files import as_path

USUAL = "encoder.channels=16 encoder.precision=float32 num_frames=12000 batch_size=128 patience=null"
GRIDWORLD = (
    "source=env:gridworld image_size=56 frame_stack=1 shift=0 horizon=1 steps=1500 options.feature_dim=128 "
    f"encoder.strides=[4,2,1] encoder.out_dim=128 {USUAL} noise.kind=shapes noise.num_shapes=8 noise.size=0.3"
)
# Observations as preset=cpu gives them to an agent, so that its agents can start from these encoders. Not temporal
# contrast: it would recognise the frames that two stacks share, with their noise. The settings were chosen after a look
# at probe scores under other settings.
CONTROL = (
    "env.action_repeat=4 image_size=40 frame_stack=3 shift=2 horizon=3 "
    f"steps=4000 encoder.strides=[2,2,1,1] encoder.out_dim=64 {USUAL}"
)
# The part of a name before its last underscore is the task, the last part is the noise. The grid world has no encoder
# without noise: there a linear probe reads the state from random features as well.
ENCODERS = {
    "gridworld_iid": f"objective=temporal_contrastive {GRIDWORLD} noise.persistence=0.0",
    # From video alone it would learn the shapes, which keep drifting.
    "gridworld_exogenous": f"objective=inverse_model {GRIDWORLD}",
    "cheetah_run_clean": f"objective=forward_model source=env:cheetah_run {CONTROL}",
    "walker_walk_clean": f"objective=forward_model source=env:walker_walk {CONTROL}",
    "vizdoom_basic_clean": (
        "objective=forward_model source=env:vizdoom_basic env.action_repeat=4 image_size=56 frame_stack=3 shift=2 "
        f"horizon=3 steps=4000 encoder.strides=[2,2,2,1] encoder.out_dim=128 {USUAL}"
    ),
    "cheetah_run_iid": (
        f"objective=forward_model source=env:cheetah_run {CONTROL} noise.kind=shapes noise.size=0.15 "
        "noise.persistence=0.0"
    ),
}


def make(name: str, out: Path, runs: Path, changes: Sequence[str], frames: int) -> None:
    """Trains an encoder, unless its run is finished already, and puts it into a folder with its card."""
    from rlrep.experiments.run.cards import write_card

    words = ["-m", "rlrep.experiments.pretrain", *ENCODERS[name].split(), *changes]
    code = subprocess.run([sys.executable, *words, f"run_dir={runs / name}", "resume=true"]).returncode
    if code:
        sys.exit(code)
    write_card(name, runs / name, out / name, " ".join(["python", *words]), frames)
    print(out / name)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m rlrep.experiments.encoders",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(ENCODERS)}; all by default")
    parser.add_argument("--out", type=as_path, default=SHIPPED_FOLDER, help="where to write the encoders' folders")
    parser.add_argument("--runs", type=as_path, default=Path("runs/encoders"), help="folder of the pre-trainings")
    parser.add_argument("--frames", type=int, default=3_000, help="frames that each probe is fitted and scored on")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="changes to the pre-training")
    options = parser.parse_args(arguments)
    for name in options.names:
        if name not in ENCODERS:
            parser.error(f"there is no recipe for {name!r}: choose among {', '.join(ENCODERS)}")
    for name in options.names or ENCODERS:
        make(name, options.out, options.runs, options.set, options.frames)
    return 0


if __name__ == "__main__":
    sys.exit(main())
