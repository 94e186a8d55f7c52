import os

import pytest

# TensorFlow reads these when it is imported, whichever test comes to that first: quiet, and with tf.layers, which lives in tf_keras since 2.16.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

CORPUS_ROWS = pytest.StashKey[list[tuple[str, str, str, str]]]()
"""(category, folder, verdict, how or why) of each checkpoint of the corpus that was tried."""


def pytest_configure(config):
    config.stash[CORPUS_ROWS] = []


@pytest.fixture(scope="session")
def corpus_row(request):
    """Adds a row to the table that is printed when all tests have run."""
    return lambda *row: request.config.stash[CORPUS_ROWS].append(row)


def pytest_terminal_summary(terminalreporter, config):
    rows = sorted(set(config.stash[CORPUS_ROWS]))
    if not rows:
        return
    terminalreporter.section("the corpus of real checkpoints")
    verdicts = sorted({verdict for _, _, verdict, _ in rows})
    terminalreporter.write_line(f"{'category':<16}" + "".join(f"{verdict:>20}" for verdict in verdicts))
    for category in [*sorted({row[0] for row in rows}), None]:
        counts = [sum(1 for c, _, v, _ in rows if v == verdict and category in (c, None)) for verdict in verdicts]
        terminalreporter.write_line(f"{category or 'together':<16}" + "".join(f"{count:>20}" for count in counts))
    for category, folder, verdict, why in rows:
        if verdict not in ("matched", "without flags"):
            terminalreporter.write_line(f"{verdict}: {category}/{folder}: {why}")


@pytest.fixture(scope="session")
def tf():
    """TensorFlow 1's API."""
    from kernel_oracle import tensorflow

    module = tensorflow().compat.v1
    module.logging.set_verbosity(module.logging.ERROR)
    return module


@pytest.fixture
def live(tf, tmp_path):
    """Builds, saves and compares graphs: see live_graph.Builder."""
    from live_graph import Builder

    return Builder(tf, tmp_path)
