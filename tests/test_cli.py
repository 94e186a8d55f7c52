"""The command line as people use it: real fixtures in, exact messages and exit codes out."""

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

from bnexport import __version__, cli, load
from bnexport.commands import convert
from bnexport.commands.options import _shapes, _values
from bnexport.conversion import convert as convert_to
from bnexport.errors import BundleError, UsageError
from bnexport.formats import read_bundle, write_bundle
from bnexport.options import Options
from bnexport.program import InMemory, Layer, Port, Program

DATA = Path(__file__).parents[1] / "fixtures" / "data"
SEED = DATA / "seed"
CSV = SEED / "input.csv"


def bnexport(*arguments, **options):
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments], catch_exceptions=False, **options)


def process(*arguments, **options):
    return subprocess.run([sys.executable, "-m", "bnexport", *map(str, arguments)], capture_output=True, check=False, **options)


def failed(result, code=1):
    """The message of a failure: all that is on standard error, and nothing on standard output."""
    assert (result.exit_code, result.stdout) == (code, "")
    return result.stderr


def expected(fixture, name="y"):
    with np.load(DATA / fixture / "expected.npz") as arrays:
        return arrays[name]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    path = tmp_path_factory.mktemp("bundle") / "seed.npz"
    assert bnexport("convert", SEED, path, "--quiet").exit_code == 0
    return path


# ---- the whole way


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_convert_and_run_in_processes_of_their_own(tmp_path, suffix):
    out = tmp_path / f"out{suffix}"
    converted = process("convert", SEED / "model.ckpt.index", out)
    assert (converted.returncode, converted.stdout) == (0, b"")
    run = process("run", out, CSV)
    assert (run.returncode, run.stderr) == (0, b"")
    scores = np.loadtxt(io.BytesIO(run.stdout), delimiter=",")
    np.testing.assert_allclose(scores, expected("seed"), rtol=0, atol=1e-5)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".npy", ".npz"])
def test_outputs_by_suffix(bundle, tmp_path, suffix):
    out = tmp_path / f"scores{suffix}"
    result = bnexport("run", bundle, CSV, "-o", out)
    assert (result.exit_code, result.output) == (0, "")
    if suffix == ".npz":
        with np.load(out) as arrays:
            assert arrays.files == ["y"]
            scores = arrays["y"]
    elif suffix == ".npy":
        scores = np.load(out)
    else:
        scores = np.loadtxt(out, delimiter={".csv": ",", ".tsv": "\t"}[suffix])
    np.testing.assert_allclose(scores, expected("seed"), rtol=0, atol=1e-5)


def test_rows_from_standard_input(bundle):
    done = process("run", bundle, "-", input=CSV.read_bytes())
    assert done.stdout == process("run", bundle, CSV).stdout


def test_header_found_and_said(bundle, tmp_path):
    rows = CSV.read_text()
    named = tmp_path / "named.csv"
    named.write_text(",".join(f"pixel{i}" for i in range(64)) + "\n" + rows)
    plain = bnexport("run", bundle, CSV).stdout
    assert bnexport("run", bundle, named).stdout == plain
    assert bnexport("run", bundle, named, "--header").stdout == plain
    assert bnexport("run", bundle, CSV, "--header").stdout == "".join(plain.splitlines(keepends=True)[1:])
    assert "row 1" in failed(bnexport("run", bundle, named, "--no-header"))


def test_several_inputs_and_outputs(tmp_path):
    out, scores = tmp_path / "out.npz", tmp_path / "scores.npz"
    names = ["digit_probabilities", "odd_probability"]
    options = [part for name in names for part in ("--output", name)]
    assert bnexport("convert", DATA / "multi_io", out, *options, "--quiet").exit_code == 0
    assert bnexport("run", out, DATA / "multi_io" / "input.npz", "-o", scores).exit_code == 0
    with np.load(scores) as arrays:
        assert sorted(arrays.files) == names
        for name in names:
            np.testing.assert_allclose(arrays[name], expected("multi_io", name), rtol=0, atol=1e-5)
    header = bnexport("run", out, DATA / "multi_io" / "input.npz").stdout.splitlines()[0]
    assert header == ",".join([*(f"digit_probabilities[{i}]" for i in range(10)), "odd_probability"])


def test_options_reach_the_library(tmp_path):
    out = tmp_path / "out.npz"
    result = bnexport(
        "convert", SEED, out, "--input", "pixels=x", "--output", "scores=logits:0", "--set", "phase_train=false", "--shape", "pixels=?,64"
    )
    assert result.exit_code == 0, result.output
    program = read_bundle(out)
    assert ([p.name for p in program.inputs], [p.name for p in program.outputs]) == (["pixels"], ["scores"])
    assert [(entry["value"], entry["why"]) for entry in program.conversion["set"]] == [(False, "--set")]


def test_a_network_that_looks_at_the_whole_batch_gets_it_whole(tmp_path):
    # softmax over the rows: each score depends on how many there are
    perm = {"perm": InMemory(np.array([1, 0], "int32"))}
    layers = [
        Layer("swap", "Transpose", ["x", "@perm"], {}, perm),
        Layer("rows", "Softmax", ["swap"]),
        Layer("back", "Transpose", ["rows", "@perm"], {}, perm),
    ]
    path, rows = tmp_path / "rows.npz", tmp_path / "rows.csv"
    program = Program([Port("x", "x", (None, 2), "float32")], layers, [Port("y", "back", (None, 2), "float32")])
    write_bundle(path, program)
    rows.write_text("0,1\n" * 5000)
    scores = np.loadtxt(io.StringIO(bnexport("run", path, rows).stdout), delimiter=",")
    np.testing.assert_allclose(scores, np.full((5000, 2), 1 / 5000), rtol=1e-5)


# ---- the summary


def test_the_summary(tmp_path):
    out = tmp_path / "out.npz"
    result = bnexport("convert", SEED, out)
    assert (result.exit_code, result.stdout) == (0, "")
    lines = result.stderr.splitlines()
    assert len(lines) <= 15
    assert lines[:3] == [
        "inputs:        x [?, 64] float32",
        "outputs:       y [?, 10] float32",
        "layers:        3 Dense; 1,374 parameters",  # 64·16+16 + 16·12+12 + 12·10+10
    ]
    assert lines[3].startswith("set:           phase_train = false (")
    assert lines[4:6] == [
        "batch norms:   2 folded into the layers beside them, epsilon 0.001 from the graph",
        "dropout:       1 removed (fed by keep_prob)",
    ]
    assert lines[-1] == f"wrote {out}"


def test_the_summary_of_what_was_baked_in(tmp_path):
    text = bnexport("convert", DATA / "dropout_old_baked", tmp_path / "out.npz", "--output", "y").stderr
    assert "dropout:       1 removed (dropout/Mul had the keep probability 0.6 baked in)" in text
    text = bnexport("convert", DATA / "conv_preact", tmp_path / "out.npz").stderr
    assert "batch norms:   1 folded" in text
    assert "not folded:    2 batch norms: " in text


def test_the_summary_says_which_weights_were_taken(tmp_path):
    raw, averaged = tmp_path / "raw.npz", tmp_path / "averaged.npz"
    assert "the weights themselves were taken, and --ema takes the averages" in bnexport("convert", DATA / "polyak", raw).stderr
    assert "averages:      taken for " in bnexport("convert", DATA / "polyak", averaged, "--ema").stderr
    scores = np.loadtxt(io.StringIO(bnexport("run", averaged, DATA / "polyak" / "input.csv").stdout), delimiter=",")
    with np.load(DATA / "polyak" / "expected_ema.npz") as arrays:
        np.testing.assert_allclose(scores, arrays["y"], rtol=0, atol=1e-5)


def test_the_summary_without_a_graph(tmp_path):
    out, fixture = tmp_path / "out.npz", DATA / "no_meta"
    lines = bnexport("convert", fixture, out).stderr.splitlines()
    assert "batch norms:   2 folded into the layers beside them, epsilon 0.001 by default" in lines
    assert any(line.startswith("Warning: the bundle cannot be evaluated: ") and "--activation" in line for line in lines)
    assert "--activation" in failed(bnexport("run", out, fixture / "input.csv"))
    said = bnexport("convert", fixture, out, "--activation", "relu,relu,softmax", "--epsilon", "1e-3", "--order", "layer1, layer2, output")
    assert "batch norms:   2 folded into the layers beside them, epsilon 0.001 from --epsilon" in said.stderr.splitlines()
    assert "Warning" not in said.stderr
    scores = np.loadtxt(io.StringIO(bnexport("run", out, fixture / "input.csv").stdout), delimiter=",")
    np.testing.assert_allclose(scores, expected("no_meta"), rtol=0, atol=1e-5)


def test_batch_norm_after_the_activation_without_a_graph(tmp_path):
    out, fixture = tmp_path / "out.npz", DATA / "bn_after_activation"
    for option in ([], ["--bn-after-activation"]):
        done = bnexport("convert", fixture, out, "--no-graph", "--activation", "relu,tanh,softmax", "--epsilon", "1e-3", *option)
        assert done.exit_code == 0, done.stderr
        scores = np.loadtxt(io.StringIO(bnexport("run", out, fixture / "input.csv").stdout), delimiter=",")
        assert (np.abs(scores - expected("bn_after_activation")).max() < 1e-5) == bool(option)


def test_quiet(tmp_path):
    result = bnexport("convert", SEED, tmp_path / "out.npz", "--quiet")
    assert (result.exit_code, result.output) == (0, "")


def test_the_progress_bar_counts_bytes(monkeypatch, tmp_path):
    arrays = {"kernel": InMemory(np.ones((3000, 200), "float32")), "bias": InMemory(np.ones(200, "float32"))}
    layers = [Layer("dense", "Dense", ["x"], {}, arrays)]
    program = Program([Port("x", "x", (None, 3000), "float32")], layers, [Port("y", "dense", (None, 200), "float32")])
    shown = []

    class Bar:
        def __init__(self, length, label, file):
            shown.append(length)

        def update(self, count):
            shown.append(count)

        def render_finish(self):
            shown.append("done")

    monkeypatch.setattr(click, "progressbar", Bar)
    monkeypatch.setattr(convert, "PROGRESS_AFTER", -1.0)
    with convert._Progress(program, shown=True) as progress:
        write_bundle(tmp_path / "out.npz", program, progress.advance)
    total = 4 * (3000 * 200 + 200)
    assert (shown[0], sum(shown[1:-1]), shown[-1]) == (total, total, "done")


# ---- what goes wrong


def test_places_that_hold_no_checkpoint(tmp_path):
    out = tmp_path / "out.npz"
    assert failed(bnexport("convert", tmp_path / "none" / "model.ckpt", out)) == (
        f"Error: {tmp_path}/none/model.ckpt does not exist, nor does its folder: give the checkpoint's prefix, one of its files, or its folder\n"
    )
    assert failed(bnexport("convert", tmp_path, out)) == (
        f"Error: {tmp_path} holds no checkpoint: give a folder with a .index file or a saved_model.pb, or the checkpoint's prefix\n"
    )
    assert failed(bnexport("convert", SEED / "modle.ckpt", out)) == f"Error: there is no checkpoint {SEED}/modle.ckpt: give {SEED}/model.ckpt\n"
    assert not out.exists()


def test_the_graph_alone(tmp_path):
    shutil.copy(SEED / "model.ckpt.meta", tmp_path)
    for command in (["convert", tmp_path / "model.ckpt.meta", tmp_path / "out.npz"], ["inspect", tmp_path / "model.ckpt.meta"]):
        assert failed(bnexport(*command)) == (
            f"Error: {tmp_path}/model.ckpt.meta has no variables beside it: there are no weights to read; "
            "copy the checkpoint's .index and .data files too\n"
        )


@pytest.mark.parametrize(("name", "suffix"), [("out", "(none)"), ("out.pb", ".pb"), ("out.npz.tmp", ".tmp")])
def test_a_suffix_that_is_no_bundles_is_refused_before_any_work(tmp_path, name, suffix):
    out = tmp_path / name
    message = f"Error: {out} has the suffix {suffix}; a bundle is written as one of .npz, .h5, .hdf5\n"
    assert failed(bnexport("convert", tmp_path / "no checkpoint here", out)) == message


def test_a_folder_that_does_not_exist(bundle, tmp_path):
    out = tmp_path / "none" / "out.npz"
    message = f"Error: {out} cannot be written: there is no folder {tmp_path}/none\n"
    assert failed(bnexport("convert", SEED, out)) == message
    assert failed(bnexport("run", bundle, CSV, "-o", out)) == message


def test_a_bundle_given_to_convert(bundle, tmp_path):
    assert failed(bnexport("convert", bundle, tmp_path / "out.npz")) == (
        f"Error: {bundle} is a bundle already: evaluate it with `bnexport run {bundle} INPUT`; convert takes a checkpoint\n"
    )


def test_an_archive_of_something_else_given_to_convert(tmp_path):
    np.savez(tmp_path / "weights.npz", a=np.ones(3))
    assert failed(bnexport("convert", tmp_path / "weights.npz", tmp_path / "out.npz")) == (
        f"Error: {tmp_path}/weights.npz is a zip archive (as .npz, .keras and .pth files are too): "
        "if a checkpoint or SavedModel is in it, unpack it and give that\n"
    )


@pytest.mark.parametrize("path", [SEED, SEED / "model.ckpt", SEED / "model.ckpt.meta", SEED / "checkpoint"])
def test_a_checkpoint_given_to_run(path):
    assert failed(bnexport("run", path, CSV)) == (
        f"Error: {path} is a checkpoint; run takes a bundle: make one with `bnexport convert {path} out.npz`\n"
    )


def test_something_else_given_to_run(bundle, tmp_path):
    assert failed(bnexport("run", tmp_path / "none.npz", CSV)) == f"Error: there is no file {tmp_path}/none.npz\n"
    assert failed(bnexport("run", CSV, CSV)) == f"Error: {CSV}: the file begins neither as .npz nor as HDF5\n"
    assert failed(bnexport("run", CSV, bundle)) == (
        f"Error: {CSV} is no bundle; the bundle comes first, and then the rows: bnexport run {bundle} {CSV}\n"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--output", "y:1"], "the graph has no tensor 'y:1': y (Softmax) has no such output"),
        (["--output", "Logits"], "the graph has no tensor 'Logits'; close names are logits"),
        (["--output", "nope"], "the graph has no tensor 'nope'; its placeholders are x, "),
        (["--output", "=y"], "--output =y: give the name of a tensor, or NAME=TENSOR"),
        (["--output", "scores="], "--output scores=: give the name of a tensor, or NAME=TENSOR"),
        (["--output", "a=y", "--output", "a=logits"], "--output a=logits: the name 'a' stands for y already"),
        (["--set", "y=1"], "the output 'y' does not depend on any input: it is a constant"),
        (["--output", "init"], "the output 'init' does not depend on any input: it is an operation that gives no tensor"),
        (["--shape", "x=?,63"], "the shapes [11, 63] and [64, 16] do not fit together; the graph has x [?, 64], and --shape says [?, 63]"),
        (["--shape", "x:0=64"], "do not fit together; the graph has x [?, 64], and --shape says [64]"),
        (["--set", "phase_train=3"], "--set phase_train=3: phase_train is a truth value; give true or false"),
        (["--set", "x=0.5"], "--set x=0.5: x is of shape [?, 64], and the value of shape []"),
        (["--set", "x=[[1,2]]"], "--set x=[[1, 2]]: x is of shape [?, 64], and the value of shape [1, 2]"),
        (["--shape", "z=?,64"], "a shape was given for 'z', which is no input; the inputs are x"),
    ],
)
def test_names_and_values_that_do_not_fit_the_graph(tmp_path, options, message):
    assert message in failed(bnexport("convert", SEED, tmp_path / "out.npz", *options))
    assert not list(tmp_path.iterdir())


def test_names_may_carry_the_number_of_the_output(tmp_path):
    options = ["--input", "x:0", "--output", "y:0", "--set", "keep_prob:0=1", "--shape", "x:0=?,64", "--set", "phase_train:0=0"]
    assert bnexport("convert", SEED, tmp_path / "out.npz", *options).exit_code == 0


def test_text_stands_in_quotes(tmp_path):
    result = bnexport("convert", SEED, tmp_path / "out.npz", "--set", 'phase_train="no"')
    assert "--set phase_train=no: the value is neither true, false, a number nor a list of them" in failed(result)


def test_options_from_python_are_checked(tmp_path):
    with pytest.raises(UsageError, match="the value is neither true, false, a number nor a list of them"):
        convert_to(SEED, tmp_path / "out.npz", Options(set_values={"phase_train": "no"}))
    with pytest.raises(UsageError, match="statistics is 'mean'; it is one of auto, moving, batch"):
        Options(statistics="mean")
    assert [port.name for port in convert_to(SEED, tmp_path / "out.npz", Options(outputs="logits")).outputs] == ["logits"]


def test_a_file_that_is_read_is_not_written_over(bundle, tmp_path):
    rows, mine = tmp_path / "rows.csv", tmp_path / "bundle.npz"
    shutil.copy(CSV, rows)
    shutil.copy(bundle, mine)
    for arguments, out in [
        (["run", mine, rows, "-o", rows], rows),
        (["run", mine, rows, "-o", mine], mine),
        (["trace", mine, rows, "-o", mine], mine),
    ]:
        assert failed(bnexport(*arguments)) == f"Error: {out} is the file that is read; name another to write\n"
    assert (rows.read_bytes(), mine.read_bytes()) == (CSV.read_bytes(), bundle.read_bytes())
    assert "the suffix .npz; a page is written as .html" in failed(bnexport("inspect", bundle, "--html", mine))
    assert "the suffix .csv; a page is written as .html" in failed(bnexport("verify", SEED, bundle, "--html", rows))


def test_the_meta_of_another_checkpoint(tmp_path):
    for name in ("model.ckpt.index", "model.ckpt.data-00000-of-00001"):
        shutil.copy(SEED / name, tmp_path)
    shutil.copy(DATA / "seed_named" / "model.ckpt.meta", tmp_path)
    message = failed(bnexport("convert", tmp_path, tmp_path / "out.npz"))
    assert f"{tmp_path}/model.ckpt does not hold the graph's variables layer1/W, layer2/W, output/W" in message
    assert message.endswith("they were not saved, or the graph is that of another checkpoint\n")


def test_a_constant_that_lost_its_value(tmp_path):
    shutil.copytree(SEED, tmp_path / "seed")
    meta = tmp_path / "seed" / "model.ckpt.meta"
    meta.write_bytes(meta.read_bytes().replace(b"\x05value", b"\x05wrong"))
    message = failed(bnexport("convert", tmp_path / "seed", tmp_path / "out.npz"))
    assert re.match(rf"Error: {re.escape(str(meta))}: the constant '.*' has no value: the file is damaged\n", message)


def test_a_folder_of_folders(tmp_path):
    message = failed(bnexport("convert", DATA / "savedmodel_v1", tmp_path / "out.npz"))
    assert message == f"Error: {DATA}/savedmodel_v1 holds no checkpoint: give {DATA}/savedmodel_v1/saved_model\n"


def test_convert_wants_the_checkpoint_first(tmp_path):
    message = failed(bnexport("convert", tmp_path / "out.npz", SEED / "model.ckpt"))
    assert message.endswith("a bundle is written as one of .npz, .h5, .hdf5; the checkpoint comes first, and then the bundle\n")


def test_more_rows_than_memory(bundle, tmp_path):
    # the header says a thousand terabytes
    file = tmp_path / "rows.npz"
    with zipfile.ZipFile(file, "w") as archive, archive.open("x.npy", "w") as member:
        np.lib.format.write_array_header_1_0(member, {"descr": "<f4", "fortran_order": False, "shape": (4 * 10**12, 64)})
    assert "memory" in failed(bnexport("run", bundle, file))


def test_verify_wants_the_checkpoint_first(bundle):
    assert "verify takes the checkpoint first" in failed(bnexport("verify", bundle, SEED))


def test_rows_that_are_not_finite_are_no_warning(bundle, tmp_path):
    rows = tmp_path / "rows.csv"
    rows.write_text(",".join(["inf", "-inf", *["nan"] * 62]) + "\n")
    done = process("run", bundle, rows, text=True)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", ",".join(["nan"] * 10) + "\n")


@pytest.mark.skipif(os.name != "posix", reason="a limit of the size of files as POSIX has it")
@pytest.mark.parametrize("limit", [2_000, 7_000, 12_000])
@pytest.mark.parametrize("command", ["convert", "trace"])
def test_a_disk_that_takes_part_of_an_hdf5_file(tmp_path, command, limit):
    """HDF5 itself complains in many lines where a write fails, and may take the process with it."""
    out = tmp_path / "out.h5"
    arguments = [command, SEED, out] if command == "convert" else [command, SEED, CSV, "-o", out]
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); from bnexport.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", limited, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, f"Error: {out} cannot be written: File too large\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a device that is always full")
@pytest.mark.parametrize("command", ["run", "inspect", "trace", "--help", "--version"])
def test_standard_output_on_a_full_disk(bundle, command):
    arguments = {"inspect": [bundle], "--help": [], "--version": []}.get(command, [bundle, CSV])
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "bnexport", command, *map(str, arguments)], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (1, "Error: standard output: No space left on device\n")


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGINT, 1)])
def test_nothing_is_left_by_a_command_that_was_ended(bundle, tmp_path, number, code):
    out = tmp_path / "scores.csv"
    with subprocess.Popen([sys.executable, "-m", "bnexport", "run", str(bundle), "-", "-o", str(out)], stdin=subprocess.PIPE) as child:
        for _ in range(3000):  # it waits for rows, the file that it will write begun
            if list(tmp_path.iterdir()):
                break
            time.sleep(0.01)
        assert [path.suffix for path in tmp_path.iterdir()] == [".tmp"]
        child.send_signal(number)
    assert (child.returncode, list(tmp_path.iterdir())) == (code, [])


@pytest.mark.parametrize("module", ["bnexport.cli", "click", "bnexport.commands.inspect", "bnexport.inspection"])
def test_an_interrupt_while_modules_are_imported(bundle, module):
    """As if it came just when that module is looked for."""
    script = (
        "import sys\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == {module!r}:\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "from bnexport.__main__ import main\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", script, "inspect", str(bundle)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.strip()) == (1, "", "Aborted!")


def test_signs_that_an_encoding_does_not_have(bundle):
    done = process("trace", bundle, CSV, env={**os.environ, "PYTHONIOENCODING": "latin-1"})
    assert (done.returncode, done.stderr) == (0, b"")
    assert b" \\u2026\t" in done.stdout
    assert process("diagnose", "--help", env={**os.environ, "PYTHONIOENCODING": "latin-1"}).returncode == 0


def test_what_a_bundle_has_no_batch_norms_for(bundle):
    message = f"Error: --unit chooses among the numbers of batch norms, and {bundle} is a bundle, into which the batch norms have been folded"
    assert failed(bnexport("trace", bundle, CSV, "--unit", 3)) == f"{message}: give the checkpoint\n"


@pytest.mark.skipif(os.name != "posix", reason="a shell closes the streams")
def test_standard_streams_that_are_closed(bundle, tmp_path):
    def closed(redirection, *arguments):
        line = f'exec "$@" {redirection}'
        return subprocess.run(["sh", "-c", line, "sh", sys.executable, "-m", "bnexport", *map(str, arguments)], capture_output=True, check=False)

    assert closed("<&-", "run", bundle, "-").stderr == b"Error: standard input is empty\n"
    assert closed(">&-", "run", bundle, CSV).returncode == 0
    assert closed("2>&-", "convert", SEED, tmp_path / "out.npz").returncode == 0


def test_a_checkpoints_prefix_given_to_load():
    with pytest.raises(BundleError, match=r"there is no file .*model\.ckpt; it is a checkpoint's prefix: convert that first$"):
        load(SEED / "model.ckpt")


def test_a_bad_cell(bundle, tmp_path):
    rows = CSV.read_text().splitlines()
    cells = rows[1].split(",")
    cells[6] = "n/a"
    file = tmp_path / "rows.csv"
    file.write_text("\n".join([",".join(f"p{i}" for i in range(64)), rows[0], ",".join(cells)]) + "\n")
    assert failed(bnexport("run", bundle, file)) == f"Error: {file}, row 3, column 7 ('p6'): 'n/a' is not a number\n"
    out = tmp_path / "scores.csv"
    assert failed(bnexport("run", bundle, file, "-o", out)).startswith(f"Error: {file}, row 3")
    assert [file.name for file in tmp_path.iterdir()] == ["rows.csv"]
    assert failed(bnexport("run", bundle, tmp_path / "none.csv")) == f"Error: {tmp_path}/none.csv cannot be read: No such file or directory\n"
    assert failed(bnexport("run", bundle, file, "-o", tmp_path / "scores.txt")) == (
        f"Error: {tmp_path}/scores.txt has the suffix .txt; outputs are written as .csv, .tsv, .npy or .npz\n"
    )


def test_an_incomplete_bundle(tmp_path):
    path = tmp_path / "out.npz"
    why = "the activation of the hidden layers is not known; convert again with --activation"
    layer = Layer("dense", "Dense", ["x"], {}, {"kernel": InMemory(np.ones((64, 2), "float32"))})
    write_bundle(path, Program([Port("x", "x", (None, 64), "float32")], [layer], [Port("y", "dense", (None, 2), "float32")], {"incomplete": why}))
    assert failed(bnexport("run", path, CSV)) == f"Error: {path}: {why}\n"
    assert f"  incomplete:      {why}" in bnexport("inspect", path).stdout.splitlines()


def test_an_unknown_node(tmp_path):
    message = failed(bnexport("convert", SEED, tmp_path / "out.npz", "--output", "logit"))
    assert message.startswith(f"Error: {SEED}/model.ckpt.meta: the graph has no tensor 'logit'; close names are logits")


def usage(result):
    """The last line of a usage error."""
    return failed(result, 2).splitlines()[-1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "phase_train"], "Error: Invalid value for --set: 'phase_train' is not NAME=VALUE"),
        (["--set", "a=1", "--set", "a:0=0"], "Error: Invalid value for --set: a:0 is given twice, with 1 and with 0"),
        (["--set", "=1"], "Error: Invalid value for --set: '=1' is not NAME=VALUE"),
        (
            ["--set", "phase_train=off"],
            "Error: Invalid value for --set: phase_train=off: the value is none of true, false, a number and a JSON list of them",
        ),
        (
            ["--set", "a=[[1],[2,3]]"],
            "Error: Invalid value for --set: a=[[1],[2,3]]: the value is none of true, false, a number and a JSON list of them",
        ),
        (["--set", "a=null"], "Error: Invalid value for --set: a=null: the value is none of true, false, a number and a JSON list of them"),
        (["--shape", "x"], "Error: Invalid value for --shape: 'x' is not NAME=VALUE"),
        (
            ["--shape", "x=?,64.5"],
            "Error: Invalid value for --shape: x=?,64.5: '64.5' is no size; give numbers with commas between them, and ? for any size",
        ),
        (["--epsilon", "small"], "Error: Invalid value for '--epsilon': 'small' is not a valid float."),
        (["more"], "Error: Got unexpected extra argument (more)"),
    ],
)
def test_options_that_cannot_be_parsed(tmp_path, options, message):
    assert usage(bnexport("convert", SEED, tmp_path / "out.npz", *options)).replace("'--set'", "--set") == message


def test_an_option_that_does_not_exist(tmp_path):
    message = usage(bnexport("convert", SEED, tmp_path / "out.npz", "--activaton", "relu"))
    assert "--activaton" in message
    assert "--activation" in message  # in other words in every version of click


def test_missing_arguments():
    assert usage(bnexport("convert", SEED)) == "Error: Missing argument 'OUT'."
    assert usage(bnexport("convert")) == "Error: Missing argument 'CKPT'."
    assert usage(bnexport("run", "out.npz")) == "Error: Missing argument 'INPUT'."
    assert usage(bnexport("export")) == "Error: No such command 'export'. There are convert, run, inspect, trace, verify, diagnose."
    assert usage(bnexport("convrt", "a", "b")) == "Error: No such command 'convrt'. Did you mean 'convert'?"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("False", False),
        ("1", 1),
        ("-3", -3),
        ("1e-3", 1e-3),
        (".5", 0.5),
        ("inf", float("inf")),
        ("[1, 2]", [1, 2]),
        ("[[true], [false]]", [[True], [False]]),
        ("[]", []),
    ],
)
def test_values(text, value):
    parsed = _values(None, None, [f"a:0={text}"])
    assert parsed == {"a:0": value}
    assert type(parsed["a:0"]) is type(value)


@pytest.mark.parametrize("text", ["?,28,28,1", "-1,28,28,1", "None, 28, 28, 1", "[?,28,28,1]"])
def test_shapes(text):
    assert _shapes(None, None, [f"image={text}"]) == {"image": [None, 28, 28, 1]}


# ---- around the commands


def test_help_and_version():
    shown = bnexport()
    assert (shown.exit_code, shown.output) == (0, bnexport("--help").output)
    assert re.search(r"Commands:\n  convert +Write the network in the checkpoint CKPT", shown.output)
    for command in cli.COMMANDS:
        assert "Example:\n" in bnexport(command, "--help").output
    assert bnexport("--version").output == f"bnexport, version {__version__}\n"
    done = process("--version", text=True)
    assert (done.returncode, done.stdout) == (0, f"bnexport, version {__version__}\n")
    assert process().stdout.startswith(b"Usage: bnexport [OPTIONS] ")


def test_an_error_in_a_process_of_its_own(tmp_path):
    done = process("convert", SEED, tmp_path / "out.txt", text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"Error: {tmp_path}/out.txt has the suffix .txt; a bundle is written as one of .npz, .h5, .hdf5\n"


def test_what_was_there_is_replaced(bundle, tmp_path):
    out = tmp_path / "out.npz"
    out.write_bytes(b"something else")
    assert bnexport("convert", SEED, out, "--quiet").exit_code == 0
    assert out.read_bytes() == bundle.read_bytes()
    assert [file.name for file in tmp_path.iterdir()] == ["out.npz"]


@pytest.mark.parametrize("command", ["run", "inspect"])
def test_a_reader_that_has_seen_enough(bundle, tmp_path, command):
    rows = tmp_path / "rows.csv"
    rows.write_text(CSV.read_text() * 2000)
    arguments = [bundle, rows] if command == "run" else [SEED]
    read, write = os.pipe()
    os.close(read)
    with subprocess.Popen([sys.executable, "-m", "bnexport", command, *map(str, arguments)], stdout=write, stderr=subprocess.PIPE) as child:
        os.close(write)
        assert child.stderr.read() == b""
    assert child.returncode == 0
