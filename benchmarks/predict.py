"""`Model.predict` beside onnxruntime, in one process: rows per second of dense networks."""

from argparse import Namespace
from itertools import pairwise

from benchmarks.measure import Table, alternating, clean_process, machine, parser, ratio_text, repeated, show

NETWORKS = ((784, 512, 256, 10), (8, 16, 12, 3), (1024, 4096, 4096, 1000))
BATCHES = (1, 32, 1024, 65536)
GOAL_FROM = 1024
"""From this batch on the goal is onnxruntime's rows per second; for the smallest network it is that everywhere."""


def main() -> None:
    options_parser = parser(__doc__, rounds=7)
    options_parser.add_argument("--network", metavar="A-B-C", action="append", help="only this network, such as 784-512-256-10; repeatable")
    options_parser.add_argument("--batch", type=int, action="append", help="only this batch; repeatable")
    options_parser.add_argument("--cores", type=int, help="no more cores than this (default: all)")
    options_parser.add_argument(
        "--operations", type=float, default=1e13, help="leave out what takes more floating-point operations a call (default 1e13)"
    )
    options = options_parser.parse_args()
    clean_process(options.cores)
    networks = [tuple(map(int, text.split("-"))) for text in options.network] if options.network else NETWORKS
    table = Table(
        f"predict, in process, {'all' if options.cores is None else options.cores} cores",
        ("network", "batch", "bnexport rows/s", "onnxruntime rows/s", "bnexport of onnxruntime", "goal"),
    )
    for sizes in networks:
        _network(table, sizes, options)
    table.notes.append(
        f"The median of {options.rounds} pairs of runs, and from the least to the greatest. {machine('bnexport', 'numpy', 'onnxruntime')}"
    )
    show(table, markdown=options.markdown)


def _network(table: Table, sizes: tuple[int, ...], options: Namespace) -> None:
    import numpy as np

    from benchmarks.networks import onnx_model, program, session, weights
    from bnexport.runner import Model

    layers = weights(sizes)
    model, other = Model(program(layers)), session(onnx_model(layers), options.cores)
    for batch in options.batch or BATCHES:
        name = "-".join(map(str, sizes))
        work = 2 * batch * sum(a * b for a, b in pairwise(sizes))
        if work > options.operations:
            table.add(name, str(batch), "left out", f"{work:.1g} operations", "", "")
            continue
        x = np.random.default_rng(1).standard_normal((batch, sizes[0]), np.float32)
        np.testing.assert_allclose(model.predict(x), other.run(None, {"x": x})[0], rtol=0, atol=1e-5)
        runs = {"bnexport": repeated(lambda x=x: model.predict(x)), "onnxruntime": repeated(lambda x=x: other.run(None, {"x": x}))}
        seconds = alternating(runs, options.rounds, warm=False)
        rows = {who: f"{batch / sorted(taken)[len(taken) // 2]:,.0f}" for who, taken in seconds.items()}
        goal = "1" if batch >= GOAL_FROM or sizes == NETWORKS[1] else ""
        table.add(name, str(batch), rows["bnexport"], rows["onnxruntime"], ratio_text(seconds["onnxruntime"], seconds["bnexport"]), goal)


if __name__ == "__main__":
    main()
