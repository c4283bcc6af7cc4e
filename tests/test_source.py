"""What the source promises, read from its syntax trees: short functions, no cycle, clear errors."""

import ast
import graphlib
import re
from pathlib import Path

import ctxext

ROOT = Path(ctxext.__file__).parent
TREES = {path.relative_to(ROOT): ast.parse(path.read_text()) for path in ROOT.rglob("*.py")}
FUNCTIONS = [
    (f"{path.as_posix()}: {node.name}", node)
    for path, tree in TREES.items()
    for node in ast.walk(tree)
    if isinstance(node, ast.FunctionDef)
]
LINES, PARAMETERS = 60, 8

# Sentences that name no flag, file or field, with the reason.
ABOUT_SOMETHING_ELSE = {
    "eval-harness needs lm-evaluation-harness, which is not installed",  # a package
    "eval-harness needs lm-eval ",
    "lm-evaluation-harness cannot be imported: ",
    "eval-harness runs as one process, and a launcher started several",  # how it was started
    "the tokenizer gives token ",  # two files of a checkpoint, of which either may be wrong
    "strings of ",  # whoever calls from Python counts tokens
    "no document has ",
    " tokens are too few: the words alone take ",
    "llama3 needs a factor of at least 1, and got ",  # a method knows no flags
    "ntk-by-parts needs beta > alpha > 0, and got ",
    "cope clips 2 to ",
    "p-rope needs p above 0 and at most 1, and got ",
    "p ",
    "",  # what another library said, with a way out
}
NAMED = re.compile(
    r"--[a-z]"  # a flag
    r"|\b[a-z]+\.[a-z]+"  # a file, or a section's field
    r"|\b[a-z]+_[a-z_]+"  # a key of a config
    r"|\b[A-Z][A-Z_]{2,}\b"  # an argument or a variable of the environment
)
PLACES = re.compile(
    r"path|file|folder|where|flag|key|place|source|name|section|what|model|run$|repo_id|given"
    r"|output_dir|CONFIG|STAGES|stage$|adapter|entry|label|field|argument"
)


def size(path, function):
    """(lines, parameters) that count; options of a command, keywords of api/ and `--set` keys of
    a method may be many."""
    arguments = function.args
    parameters = [*arguments.posonlyargs, *arguments.args]
    is_method = parameters and parameters[0].arg in ("self", "cls")
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    if path.startswith("cli/") and function.name == "command":
        return function.end_lineno - body[0].lineno + 1, 0
    if path.startswith(("api/", "methods/")) and not function.name.startswith("_"):
        return function.end_lineno - body[0].lineno + 1, len(parameters) - bool(is_method)
    parameters += arguments.kwonlyargs
    return function.end_lineno - function.lineno + 1, len(parameters) - bool(is_method)


def test_no_two_test_files_have_one_name():
    """pytest imports them by their names alone, and a whole run stops at the second."""
    names = [file.name for file in Path(__file__).parent.rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))


def test_functions_fit_on_a_screen():
    too_large = {
        name: sizes
        for name, function in FUNCTIONS
        if (sizes := size(name, function))[0] > LINES or sizes[1] > PARAMETERS
    }
    assert not too_large, f"over {LINES} lines or {PARAMETERS} parameters"


def test_every_function_says_what_it_returns():
    assert [name for name, function in FUNCTIONS if function.returns is None] == []


def test_one_file_tells_transformers_of_attention():
    registering = [
        path.as_posix()
        for path, tree in TREES.items()
        if re.search(r"Interface\.register\(", ast.unparse(tree))
    ]
    assert registering == ["checkpoints/live/attention.py"]


def is_for_types_only(node):
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports(node):
    """Names of modules that a tree imports, inside functions too, as far as they are ours."""
    if is_for_types_only(node):
        return
    if isinstance(node, ast.ImportFrom) and node.module:
        assert not node.level, "imports are absolute"
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
        yield node.module
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    for child in ast.iter_child_nodes(node):
        yield from imports(child)


def cycle(trees):
    """The modules of a cycle, imports inside functions included; None where there is none."""
    modules = {
        ".".join(("ctxext", *path.with_suffix("").parts)).removesuffix(".__init__"): tree
        for path, tree in trees.items()
    }
    graph = {
        name: {found for found in imports(tree) if found in modules and found != name}
        for name, tree in modules.items()
    }
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return None


def test_no_file_imports_itself_by_way_of_others():
    assert cycle(TREES) is None
    lazy = {
        Path("a.py"): "def a():\n    from ctxext import b",
        Path("b.py"): "from ctxext.a import a",
    }
    assert cycle({path: ast.parse(code) for path, code in lazy.items()})


def refusals():
    """Each call that makes a BadInput."""
    for node in (node for tree in TREES.values() for node in ast.walk(tree)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "BadInput":
            yield node


def first_words(call):
    texts = [node.value for node in ast.walk(call.args[0]) if isinstance(node, ast.Constant)]
    return texts[0] if texts else ""


def names_something(call):
    """Whether a flag, a file or a field stands in the sentence, in its hint or beside them."""
    if {keyword.arg for keyword in call.keywords} & {"argument", "path"}:
        return True
    for node in ast.walk(call):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if NAMED.search(node.value):
                return True
        elif isinstance(node, ast.FormattedValue) and PLACES.search(ast.unparse(node.value)):
            return True
    return False


def test_every_refusal_names_a_flag_a_file_or_a_field():
    vague = {first_words(call) for call in refusals() if not names_something(call)}
    assert vague == ABOUT_SOMETHING_ELSE
