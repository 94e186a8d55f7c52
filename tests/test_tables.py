"""Tables in and out. Expected values are Python's own: float(), int(), csv, NumPy's scalar repr."""

import gzip
import io
import sys
import zipfile

import numpy as np
import pytest

from bnexport.errors import InputError, UsageError
from bnexport.program import Port
from bnexport.tables import read_inputs, shortest, write_outputs


def port(*shape, name="x", dtype="float32"):
    return Port(name, name, shape, dtype)


X2 = [port(None, 2)]


def read(path, ports, **options):
    blocks = list(read_inputs(path, ports, **options))
    return {key: np.concatenate([block[key] for block in blocks]) for key in blocks[0]}


@pytest.fixture
def csv(tmp_path):
    def make(text, name="in.csv"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return make


@pytest.mark.parametrize(
    "text",
    [
        "1.5,2\n-3e2,.25\n",
        "1.5,2\n-3e2,.25",
        "1.5,2\r\n-3e2,.25\r\n",
        "\ufeff1.5,2\n-3e2,.25\n",
        '"1.5","2"\n"-3e2",.25\n',
        " 1.5 , 2\n-3e2, .25\n\n \n",
        "a,b\n1.5,2\n-3e2,.25\n",
        '\ufeff"a","b, c"\r\n1.5,2\r\n-3e2,.25\r\n',
        '"first\nname",b\n1.5,2\n-3e2,.25\n',
        "é,b\n1.5,2\n-3e2,.25\n",
        ",b\n1.5,2\n-3e2,.25\n",
    ],
)
def test_csv_in_all_its_clothes(csv, text):
    got = read(csv(text), X2)["x"]
    assert got.dtype == np.float32
    assert got.tolist() == [[1.5, 2.0], [-300.0, 0.25]]


TEXT = port(None, name="word", dtype="string")
MIXED = [port(None, 2), TEXT]


class TestText:
    @pytest.mark.parametrize(
        ("text", "ports", "words"),
        [
            ("1,2,red\n3,4,blue\n", MIXED, ["red", "blue"]),
            ("word,x[1],x[0]\nred,2,1\nblue,4,3\n", MIXED, ["red", "blue"]),
            ("a,b,c\n1,2,red\n3,4,blue\n", MIXED, ["red", "blue"]),
            ('1,2,"red, green"\n3,4,"say ""no"""\n', MIXED, ["red, green", 'say "no"']),
            ('1,2,"two\nlines"\n3,4,"a\r\n\nb"\n', MIXED, ["two\nlines", "a\r\n\nb"]),
            ('1,2,"two\r\nlines"\r\n3,4,last\r\n\r\n', MIXED, ["two\r\nlines", "last"]),
            ("1,2, red \n3,4,\n", MIXED, [" red ", ""]),
            ('1,2,5\n3,4,"5"\n', MIXED, ["5", "5"]),
            ("\ufeff1,2,é\n3,4,火\n", MIXED, ["é", "火"]),
            ('1,2,5" pipe\n3,4,#4\n', MIXED, ['5" pipe', "#4"]),
            ('word\nred\n""\n', [TEXT], ["red", ""]),
        ],
    )
    def test_cells(self, csv, text, ports, words):
        for rows in (1, 4096):
            got = read(csv(text), ports, block_rows=rows)
            assert got["word"].dtype == object
            assert got["word"].tolist() == [word.encode() for word in words]
            if "x" in got:
                assert got["x"].tolist() == [[1, 2], [3, 4]]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("red\nblue\n", ", row 1 is all text, and names no input: say --header if it names the columns, or --no-header if it is data"),
            ("a,b,c\n1,two,red\n", ", row 2, column 2 ('b'): 'two' is not a number"),
            ("1,2,red\n3,,blue\n", ", row 2, column 2: the cell is blank"),
            ("1,two,red\n", ", row 1, column 2: 'two' is not a number (where row 1 names the columns, say --header)"),
            ("1,2\n", ", row 1 has 2 columns, and the input x takes [any, 2] and the input word takes [any], that is 3 columns"),
            ('1,2,"red\n3,4,blue\n', ", row 1: a quote is opened and not closed"),
            ('1,2,red\n3,4,"blue\n', ", row 2: a quote is opened and not closed"),
            ('1,2,"red\nblue"\n3,4\n', ", row 3 is short: column 3 is missing, of 3"),
        ],
    )
    def test_what_is_wrong_with_a_file(self, csv, text, message):
        path = csv(text)
        ports = [TEXT] if "all text" in message else MIXED
        with pytest.raises(InputError) as caught:
            read(path, ports)
        assert str(caught.value) == f"{path}{message}"

    def test_all_text_with_a_header_said(self, csv):
        path = csv("red\nblue\n")
        assert read(path, [TEXT], header=True)["word"].tolist() == [b"blue"]
        assert read(path, [TEXT], header=False)["word"].tolist() == [b"red", b"blue"]

    @pytest.mark.parametrize("dtype", ["U", "S"])
    def test_arrays(self, tmp_path, dtype):
        words = np.array(["red", "", "no such"], dtype)
        np.save(tmp_path / "in.npy", words)
        np.savez(tmp_path / "in.npz", word=words, x=np.ones((3, 2)))
        assert read(tmp_path / "in.npy", [TEXT], block_rows=2)["word"].tolist() == [b"red", b"", b"no such"]
        assert read(tmp_path / "in.npz", MIXED)["word"].tolist() == [b"red", b"", b"no such"]

    def test_arrays_of_another_kind(self, tmp_path):
        np.savez(tmp_path / "in.npz", word=np.arange(3), x=np.array([["a", "b"]] * 3))
        with pytest.raises(InputError, match="word is of dtype int64, and the input word takes string"):
            read(tmp_path / "in.npz", [TEXT])
        with pytest.raises(InputError, match="x is of dtype <U1, and the input x takes float32"):
            read(tmp_path / "in.npz", X2)
        np.save(tmp_path / "in.npy", np.array(["red"], object))
        with pytest.raises(
            InputError, match=r"it holds pickled Python objects; save an array of numbers, or of text as np\.array\(words, str\), with"
        ):
            read(tmp_path / "in.npy", [TEXT])

    @pytest.mark.parametrize("name", ["out.csv", "out.npy", "out.npz", "-"])
    def test_outputs_that_are_text(self, tmp_path, name):
        with pytest.raises(UsageError, match=r"^the output word is text, which is not written to files: model\.predict gives it$"):
            write_outputs(name if name == "-" else tmp_path / name, [TEXT], [{"word": np.array([b"red"], object)}])
        assert list(tmp_path.iterdir()) == []


def test_tabs_where_the_suffix_says_so(csv):
    assert read(csv("1\t2\n", "in.tsv"), X2)["x"].tolist() == [[1, 2]]


def test_standard_input(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"1,2\n3,4\n")))
    assert read("-", X2)["x"].tolist() == [[1, 2], [3, 4]]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"1,2\n3,x\n")))
    with pytest.raises(InputError, match=r"^standard input, row 2, column 2: 'x' is not a number$"):
        read("-", X2)


def test_a_header_of_numbers_must_be_said(csv):
    path = csv("0,1\n5,6\n")
    assert len(read(path, X2)["x"]) == 2
    assert read(path, X2, header=True)["x"].tolist() == [[5, 6]]
    with pytest.raises(InputError, match="'a' is not a number"):
        read(csv("a,b\n1,2\n"), X2, header=False)


def test_a_header_that_counts_is_not_guessed(csv):
    # as pandas writes columns without names: they would pass for a row of data
    path, wide = csv("0,1,2,3\n5,6,7,8\n"), [port(None, 4)]
    with pytest.raises(InputError, match=r"row 1 counts its columns, 0 to 3; say --header if these are names, or --no-header if they are data$"):
        read(path, wide)
    assert read(path, wide, header=True)["x"].tolist() == [[5, 6, 7, 8]]
    assert len(read(path, wide, header=False)["x"]) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "in.csv is empty"),
        ("\ufeff", "in.csv is empty"),
        ("\n1,2\n", "in.csv, row 1 is blank"),
        (",\n1,2\n", "in.csv, row 1, column 1: the cell is blank"),
        ("a,b\n", "in.csv has a header and no rows"),
        ("a,b\n\n\n", "in.csv has a header and no rows"),
        ("1,2\n3,oops\n", "in.csv, row 2, column 2: 'oops' is not a number"),
        ("a,b\n1,2\n3,oops\n", "in.csv, row 3, column 2 ('b'): 'oops' is not a number"),
        ("1,2\n3,\n", "in.csv, row 2, column 2: the cell is blank (the row ends in a separator)"),
        ("1,2\n,3\n", "in.csv, row 2, column 1: the cell is blank"),
        ('1,2\n3,"4,5"\n', "in.csv, row 2, column 2: '4,5' is not a number; decimals have a point, and thousands no separator"),
        ("1,2\n3,\N{MINUS SIGN}4\n", "in.csv, row 2, column 2: '\N{MINUS SIGN}4' is not a number; its minus sign is U+2212, not that of ASCII"),
        ("1,2\n# later\n", "in.csv, row 2 begins with # as a comment does; take comments out"),
        ("1,2\n3,1_0\n", "in.csv, row 2, column 2: '1_0' is not a number"),
        ("1,2\n3,0x10\n", "in.csv, row 2, column 2: '0x10' is not a number"),
        ("1,2\n3,٣\n", "in.csv, row 2, column 2: '٣' is not a number"),
        ("1,2\n3,1e39\n", "in.csv, row 2, column 2: 1e39 is too large for float32"),
        ("1,2\n3,1e999\n", "in.csv, row 2, column 2: 1e999 is too large for float32"),
        ("1,2\n\n3,4\n", "in.csv, row 2 is blank"),
        ("a,b\n1,2\n3\n", "in.csv, row 3 is short: column 2 ('b') is missing, of 2"),
        ("1,2\n3,4,5\n", "in.csv, row 2 is long: it has 3 columns instead of 2"),
        # The cells of both rows together are as many as they should be.
        ("1,2\n3\n4,5,6\n", "in.csv, row 2 is short: column 2 is missing, of 2"),
        ("1,2\n3;4\n", "in.csv, row 2 is short: column 2 is missing, of 2"),
        ('1,2\n"3,4\n', "in.csv, row 2: a quote is opened and not closed"),
        ("1,x\n3,4\n", "in.csv, row 1, column 2: 'x' is not a number (where row 1 names the columns, say --header)"),
        ("1,\n3,4\n", "in.csv, row 1, column 2: the cell is blank (the row ends in a separator) (where row 1 names the columns, say --header)"),
        ("1\n2\n", "in.csv, row 1 has 1 column, and the input x takes [any, 2], that is 2 columns"),
        ("7,1,2\n", "in.csv, row 1 has 3 columns, and the input x takes [any, 2], that is 2 columns; is one of them an index or a label?"),
        (
            "1;2\n3;4\n",
            "in.csv, row 1 has 1 column, and the input x takes [any, 2], that is 2 columns; "
            "it has 1 semicolon, but commas separate the columns (and tabs those of .tsv)",
        ),
        (
            "1,5;2\n3;4\n",
            "in.csv, row 1, column 2: '5;2' is not a number; commas separate the columns, and decimals have a point "
            "(where row 1 names the columns, say --header)",
        ),
        (
            "# 4 rows\n1,2\n",
            "in.csv, row 1 has 1 column, and the input x takes [any, 2], that is 2 columns; it begins with # as a comment does: take comments out",
        ),
        (gzip.compress(b"1,2\n"), "in.csv is no CSV but compressed with gzip; give CSV, or .npy or .npz under its own suffix"),
        (b"\x93NUMPY\x01\x00v\x00{", "in.csv is no CSV but one in NumPy's .npy format; give CSV, or .npy or .npz under its own suffix"),
        ("1,2\n".encode("utf-16-be"), "in.csv, row 1 is no text, or not UTF-8 (it holds a byte 0); save it as UTF-8"),
        ("1,2\r3,4\r", "in.csv, row 1: its lines end in a carriage return alone; save it with line feeds"),
        (b"1,2\n3,\xe9\n", "in.csv, row 2 is not UTF-8 (byte 3 of the line is 0xe9); save it as UTF-8"),
        (b"\xe9,2\n", "in.csv, row 1 is not UTF-8 (byte 1 of the line is 0xe9); save it as UTF-8"),
        ("1,2\n".encode("utf-16"), "in.csv is not UTF-8 but UTF-16; save it as UTF-8"),
    ],
)
def test_what_is_wrong_and_where(csv, text, message):
    path = csv(text)
    with pytest.raises(InputError) as caught:
        read(path, X2)
    assert str(caught.value) == f"{path.parent}/{message}"


def test_the_row_is_right_in_later_blocks(csv):
    rows = [f"{i},{i}" for i in range(10_000)]
    rows[9_000] = "1,two"
    with pytest.raises(InputError, match=r"row 9001, column 2: 'two'"):
        read(csv("\n".join(rows)), X2)
    with pytest.raises(InputError, match=r"row 9002, column 2 \('b'\): 'two'"):
        read(csv("a,b\n" + "\n".join(rows)), X2)


def test_blocks(csv, tmp_path):
    path = csv("".join(f"{i},0\n" for i in range(25)))
    assert [len(b["x"]) for b in read_inputs(path, X2, block_rows=10)] == [10, 10, 5]
    assert [len(b["x"]) for b in read_inputs(path, X2, block_rows=None)] == [25]
    np.save(tmp_path / "in.npy", np.zeros((25, 2)))
    assert [len(b["x"]) for b in read_inputs(tmp_path / "in.npy", X2, block_rows=10)] == [10, 10, 5]


def test_nan_and_infinity_only_by_name(csv):
    got = read(csv("nan,inf\n-Infinity,NaN\n"), X2)["x"]
    assert np.isnan(got[0, 0]) and got[0, 1] == np.inf and got[1, 0] == -np.inf and np.isnan(got[1, 1])


def test_integers_are_exact(csv):
    text = "9007199254740993,-9223372036854775808\n9223372036854775807,1e3\n1.0,3\n"
    got = read(csv(text), [port(None, 2, dtype="int64")])["x"]
    assert got.tolist() == [[2**53 + 1, -(2**63)], [2**63 - 1, 1000], [1, 3]]
    assert read(csv("18446744073709551615\n"), [port(None, dtype="uint64")])["x"].tolist() == [2**64 - 1]


@pytest.mark.parametrize(
    ("dtype", "cell", "message"),
    [
        ("int32", "1.5", "1.5 is not an integer, and int32 is what the input takes"),
        ("int32", "nan", "nan is not an integer, and int32 is what the input takes"),
        ("int32", "2147483648", "2147483648 does not fit int32"),
        ("int64", "9223372036854775808", "9223372036854775808 does not fit int64"),
        ("int64", "1e30", "1e30 does not fit int64"),
        ("uint8", "-1", "-1 does not fit uint8"),
        ("bool", "2", "2 is neither 0 nor 1, and the input takes bool"),
        ("bool", "yes", "'yes' is not a number"),
        ("float16", "70000", "70000 is too large for float16"),
    ],
)
def test_what_a_dtype_does_not_take(csv, dtype, cell, message):
    with pytest.raises(InputError) as caught:
        read(csv(f"1\n{cell}\n"), [port(None, dtype=dtype)])
    assert str(caught.value).endswith(f"row 2, column 1: {message}")


def test_bools(csv):
    got = read(csv("true,0\nFalse,1\n"), [port(None, 2, dtype="bool")])["x"]
    assert got.dtype == bool and got.tolist() == [[True, False], [False, True]]


@pytest.mark.parametrize(
    ("shape", "full"), [((None, 2, 3), (1, 2, 3)), ((None, None, 3), (1, 2, 3)), ((None, 2, None, 1), (1, 2, 3, 1)), ((8, 6), (1, 6))]
)
def test_further_dimensions_are_flattened_row_major(csv, shape, full):
    got = read(csv("5,1,2,3,4,0\n"), [port(*shape)])["x"]
    assert got.shape == full and got.ravel().tolist() == [5, 1, 2, 3, 4, 0]


def test_an_unknown_dimension_that_does_not_divide(csv):
    with pytest.raises(InputError, match=r"row 1 has 5 columns, and the input x takes \[any, any, 3\]$"):
        read(csv("1,2,3,4,5\n"), [port(None, None, 3)])


AB = [port(None, 2, name="a"), port(None, name="b", dtype="int32")]


def test_several_inputs(csv):
    for text in ("1,2,3\n", "p,q,r\n1,2,3\n", "b,a,a\n3,1,2\n", "a[1],b,a[0]\n2,3,1\n"):
        got = read(csv(text), AB)
        assert got["a"].tolist() == [[1, 2]] and got["b"].tolist() == [3] and got["b"].dtype == np.int32
    got = read(csv("1,2,3,4,5\n"), [port(None, 2, name="a"), port(None, None, name="b")])
    assert got["b"].tolist() == [[3, 4, 5]]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("a,a,label", "row 1, column 3: 'label' names no input, as other columns do (a)"),
        ("a,a,a", "row 1 has no column for the input b"),
        ("a[0],a[2],b", "row 1: the columns of the input a are not numbered a[0] to a[1]"),
        ("a,b,b", "row 1 names 1 columns for the input a, which takes [any, 2]"),
    ],
)
def test_a_header_that_names_inputs_in_part(csv, header, message):
    with pytest.raises(InputError) as caught:
        read(csv(f"{header}\n1,2,3\n"), AB)
    assert str(caught.value).endswith(message)


def test_a_bad_cell_among_reordered_columns(csv):
    with pytest.raises(InputError, match=r"row 2, column 2 \('b'\): 3.5 is not an integer"):
        read(csv("a[1],b,a[0]\n2,3.5,1\n"), AB)


def test_arrays(tmp_path):
    values = np.arange(12.0).reshape(2, 2, 3)
    np.save(tmp_path / "x.npy", values)
    got = read(tmp_path / "x.npy", [port(None, 2, 3)])["x"]
    assert got.dtype == np.float32 and (got == values).all()
    assert read(tmp_path / "x.npy", [port(None, None, None)])["x"].shape == (2, 2, 3)
    np.save(tmp_path / "flat.npy", values.reshape(2, 6))
    assert (read(tmp_path / "flat.npy", [port(None, 2, 3)])["x"] == values).all()
    np.save(tmp_path / "f.npy", np.asfortranarray(values))
    assert (read(tmp_path / "f.npy", [port(None, 2, 3)])["x"] == values).all()


def test_npz_by_input_name(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.ones((5, 2)), b=np.arange(5), rate=np.float32(0.5), table=np.eye(3))
    ports = [*AB, port(name="rate"), port(3, 3, name="table")]
    blocks = list(read_inputs(tmp_path / "x.npz", ports, block_rows=3))
    assert [b["a"].shape for b in blocks] == [(3, 2), (2, 2)]
    assert all(b["rate"].shape == () and b["table"].shape == (3, 3) for b in blocks)
    with pytest.raises(InputError, match=r"x.npz has no array c for the input of that name; it holds a, b, rate, table$"):
        read(tmp_path / "x.npz", [port(None, name="c")])
    np.savez(tmp_path / "y.npz", a=np.ones((5, 2)), b=np.arange(4))
    with pytest.raises(InputError, match=r"differ in their number of rows \(a has 5, b has 4\)$"):
        read(tmp_path / "y.npz", AB)


@pytest.mark.parametrize(
    ("values", "dtype", "message"),
    [
        (np.ones((3, 3)), "float32", "has the shape [3, 3], and the input x takes [any, 2]"),
        (np.ones(2), "float32", "has the shape [2], and the input x takes [any, 2]; a single row has the shape [1, 2]"),
        (np.ones((0, 2)), "float32", "holds no rows"),
        (np.array([[1, 2], [3, 4.5]]), "int32", ": the input x, element [1, 1] is 4.5, which is no int32"),
        (np.array([[1, 2], [3, np.nan]]), "int64", ": the input x, element [1, 1] is nan, which is no int64"),
        (np.array([[1, 2], [3, 2.0**63]]), "int64", ": the input x, element [1, 1] is 9.223372036854775808e+18, which is no int64"),
        (np.array([[1, 2], [3, -1]]), "uint64", ": the input x, element [1, 1] is -1, which is no uint64"),
        (np.array([[1, 2], [1e300, 4]]), "float32", ": the input x, element [1, 0] is 1e+300, which is no float32"),
        (np.array([["a", "b"]]), "float32", " is of dtype <U1, and the input x takes float32"),
        (np.ones((1, 2), complex), "float32", " is of dtype complex128, and the input x takes float32"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path, values, dtype, message):
    np.save(tmp_path / "x.npy", values)
    with pytest.raises(InputError) as caught:
        read(tmp_path / "x.npy", [port(None, 2, dtype=dtype)])
    assert str(caught.value).replace("9.223372036854776e+18", "9.223372036854775808e+18").endswith(message)


def test_the_element_is_right_in_later_blocks(tmp_path):
    values = np.zeros((20, 2))
    values[17, 1] = 0.5
    np.save(tmp_path / "x.npy", values)
    with pytest.raises(InputError, match=r"element \[17, 1\] is 0\.5"):
        list(read_inputs(tmp_path / "x.npy", [port(None, 2, dtype="int32")], block_rows=5))


def test_npz_by_the_tensors_full_name(tmp_path):
    np.savez(tmp_path / "in.npz", **{"x:0": np.ones((3, 2))})
    assert read(tmp_path / "in.npz", X2)["x"].tolist() == [[1, 1]] * 3


def test_no_pickles(tmp_path):
    np.save(tmp_path / "x.npy", np.array([[1, "a"]], object), allow_pickle=True)
    np.savez(tmp_path / "x.npz", x=np.array([[1, "a"]], object))
    (tmp_path / "p.npy").write_bytes(b"\x80\x04K\x01.")
    (tmp_path / "junk.npz").write_bytes(b"PK\x03\x04junk")
    (tmp_path / "empty.npy").write_bytes(b"")
    for name in ("x.npy", "x.npz", "p.npy", "junk.npz", "empty.npy"):
        with pytest.raises(InputError, match=name) as caught:
            read(tmp_path / name, X2)
        assert "allow_pickle" not in str(caught.value)  # NumPy's advice: to run what the file says


def test_array_files_that_are_something_else(tmp_path):
    """NumPy tells files by their contents, whatever their suffix, and what it does not know is a pickle to it."""
    np.save(tmp_path / "right.npy", np.ones((1, 2)))
    np.savez(tmp_path / "right.npz", x=np.ones((1, 2)))
    array, archive = (tmp_path / "right.npy").read_bytes(), (tmp_path / "right.npz").read_bytes()

    def refused(name, data):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError) as caught:
            read(tmp_path / name, X2)
        return str(caught.value).removeprefix(f"{tmp_path}/")

    assert refused("a.npy", archive) == "a.npy is no .npy file but a zip archive, as .npz and .xlsx are"
    assert refused("a.npz", array) == "a.npz is no .npz file but one in NumPy's .npy format"
    assert refused("b.npy", b"1,2\n") == "b.npy is no .npy file"
    assert refused("b.npz", b"") == "b.npz is empty"
    assert refused("c.npy", array[:-3]) == "c.npy cannot be read as .npy of numbers: the file is cut short"
    assert refused("d.npy", array[:50]) == "d.npy cannot be read as .npy of numbers: the file is cut short"
    assert refused("c.npz", archive[:-30]) == "c.npz cannot be read as .npz of numbers: the file is cut short"
    with zipfile.ZipFile(tmp_path / "text.npz", "w") as file:
        file.writestr("x", "1,2")
    with pytest.raises(InputError, match=r"text\.npz: x is no array in NumPy's format"):
        read(tmp_path / "text.npz", X2)
    with zipfile.ZipFile(tmp_path / "bundle.npz", "w") as file:
        file.writestr("manifest.json", "{}")
    with pytest.raises(InputError, match=r"bundle\.npz is a bundle, which holds weights and no rows; the bundle comes first, and then the rows"):
        read(tmp_path / "bundle.npz", X2)


def test_files_that_are_not_there(tmp_path):
    for name in ("no.csv", "no.npy", "no.npz"):
        with pytest.raises(InputError, match=rf"{name} cannot be read: No such file"):
            read(tmp_path / name, X2)
    with pytest.raises(InputError, match=r"cannot be read: Is a directory"):
        read(tmp_path, X2)


def test_inputs_that_a_file_cannot_give(csv, tmp_path):
    with pytest.raises(InputError, match="the input rate is a single number"):
        read(csv("1\n"), [port(name="rate")])
    np.save(tmp_path / "x.npy", np.ones((1, 2)))
    with pytest.raises(InputError, match=r"holds one array and the network has 2 inputs \(a, b\)"):
        read(tmp_path / "x.npy", AB)


# Out


Y = [port(None, 2, name="y")]


def test_csv_out(tmp_path, capsysbinary):
    values = np.array([[0.1, 1.0], [-2.5e-7, 16777216.0]], np.float32)
    write_outputs(tmp_path / "out.csv", Y, [{"y": values[:1]}, {"y": values[1:]}])
    assert (tmp_path / "out.csv").read_text() == "0.1,1.0\n-2.5e-07,16777216.0\n"
    for nowhere in (None, "-"):
        write_outputs(nowhere, Y, [{"y": values}], header=True)
        assert capsysbinary.readouterr().out == b"y[0],y[1]\n0.1,1.0\n-2.5e-07,16777216.0\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.csv"]


def test_several_outputs_side_by_side(tmp_path):
    ports = [port(None, 1, 2, name="p"), port(None, name="k,1", dtype="int64"), port(None, name="b", dtype="bool")]
    block = {"p": np.array([[[0.5, 1]]], np.float32), "k,1": np.array([2**60]), "b": np.array([True])}
    write_outputs(tmp_path / "o.csv", ports, [block])
    assert (tmp_path / "o.csv").read_text() == f'p[0],p[1],"k,1",b\n0.5,1.0,{2**60},1\n'
    again = read(tmp_path / "o.csv", ports)
    assert all((again[key] == block[key]).all() for key in block)
    write_outputs(tmp_path / "o.csv", ports, [block], header=False)
    assert (tmp_path / "o.csv").read_text() == f"0.5,1.0,{2**60},1\n"
    with pytest.raises(UsageError, match=r"differ in their number of rows \(p has 1, k,1 has 2, b has 1\)"):
        write_outputs(tmp_path / "o.csv", ports, [block | {"k,1": np.array([1, 2])}])


def test_float32_text_is_the_shortest_that_reads_back():
    rng = np.random.default_rng(1)
    values = np.concatenate(
        [
            rng.standard_normal(5_000).astype(np.float32),
            rng.integers(0, 2**32, 20_000, dtype=np.uint32).view(np.float32),
            np.ldexp(np.float32(1), np.arange(-149, 128)),
            np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 0.1, 1e10, 3.4028235e38, 1.17549435e-38, 1e-45], np.float32),
        ]
    )
    got = [repr(v) for v in shortest(values).tolist()]
    for value, text in zip(values, got, strict=True):
        assert float(text) == float(str(value)) or np.isnan(value)
        assert np.signbit(np.float32(text)) == np.signbit(value) or np.isnan(value)


def test_every_float16_reads_back_from_its_shortest_text():
    values = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    for value, text in zip(values, shortest(values).tolist(), strict=True):
        assert text == float(str(value)) or np.isnan(value)


def test_float64_round_trips(tmp_path):
    values = np.random.default_rng(2).standard_normal((50, 2))
    write_outputs(tmp_path / "o.csv", Y, [{"y": values}])
    assert (read(tmp_path / "o.csv", [port(None, 2, dtype="float64")])["x"] == values).all()


def test_npy_and_npz_out(tmp_path):
    values = np.arange(20, dtype=np.float32).reshape(10, 2)
    blocks = [{"y": values[:7], "z/k": values[:7, 0] > 3}, {"y": values[7:], "z/k": values[7:, 0] > 3}]
    write_outputs(tmp_path / "o.npy", Y, blocks)
    assert (np.load(tmp_path / "o.npy") == values).all()
    ports = [*Y, port(None, name="z/k", dtype="bool")]
    write_outputs(tmp_path / "o.npz", ports, blocks)
    first = (tmp_path / "o.npz").read_bytes()
    with np.load(tmp_path / "o.npz") as got:
        assert (got["y"] == values).all() and (got["z/k"] == (values[:, 0] > 3)).all()
    write_outputs(tmp_path / "o.npz", ports, blocks)
    assert (tmp_path / "o.npz").read_bytes() == first
    write_outputs(tmp_path / "s.npy", [port(name="s")], [{"s": np.float32(3)}])
    assert np.load(tmp_path / "s.npy").shape == ()


def test_places_that_cannot_be_written(tmp_path):
    block = [{"y": np.ones((1, 2), np.float32), "z": np.ones((1, 2), np.float32)}]
    with pytest.raises(UsageError, match=r"has the suffix \.parquet; outputs are written as \.csv"):
        write_outputs(tmp_path / "o.parquet", Y, block)
    with pytest.raises(UsageError, match=r"the network has 2 outputs; write \.npz or \.csv$"):
        write_outputs(tmp_path / "o.npy", [*Y, port(None, 2, name="z")], block)
    with pytest.raises(UsageError, match="there is no folder"):
        write_outputs(tmp_path / "no" / "o.csv", Y, block)
    (tmp_path / "d.csv").mkdir()
    with pytest.raises(UsageError, match="is a folder"):
        write_outputs(tmp_path / "d.csv", Y, block)


@pytest.mark.parametrize("name", ["o.csv", "o.npy", "o.npz"])
def test_nothing_half_written_remains(tmp_path, name):
    def blocks():
        yield {"y": np.ones((3, 2), np.float32)}
        raise InputError("row 4 is bad")

    (tmp_path / name).write_text("before")
    with pytest.raises(InputError, match="row 4 is bad"):
        write_outputs(tmp_path / name, Y, blocks())
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "before"
    with pytest.raises(InputError, match="no rows"):
        write_outputs(tmp_path / name, Y, [])
