"""The page at ``/``, as a browser shows it."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Route, expect, sync_playwright
from starlette.applications import Starlette
from starlette.routing import Mount

from ml_project_template.data import Preprocessor, TabularDataset
from ml_project_template.models import ModelRegistry
from ml_project_template.predictor import Predictor
from ml_project_template.serving import ServerSettings, create_app, load_model
from tests.servers import ROW, Loaded, flats, serving_in_a_thread

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")

CLIPBOARD = ["clipboard-read", "clipboard-write"]
NARROW = {"width": 360, "height": 740}
SCRIPT, QUOTES = "<script>document.title='owned'</script>", 'it\'s "1", $HOME; =2'
ODD_CLASSES = ["<img src=x onerror=\"document.title='owned'\">", "=1+1"]

Open = Callable[..., Page]


# A browser beside other tests on a busy machine may need longer than the usual 5 s.
expect.set_options(timeout=30_000)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server(iris_model: Path) -> Iterator[str]:
    with serving_in_a_thread(create_app({"iris": load_model(str(iris_model))})) as address:
        yield address


@pytest.fixture(scope="module")
def odd_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose features and classes have names that are made to do harm."""
    folder = tmp_path_factory.mktemp("odd")
    random = np.random.default_rng(0)
    with (folder / "odd.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([SCRIPT, QUOTES, "__proto__", "flag", "count", "kind"])
        for index in range(60):
            values = random.normal(size=3)
            kind = ODD_CLASSES[int(values[2] > 0)]
            writer.writerow([*values.tolist(), str(bool(values[0] > 0)), index % 7, kind])
    raw = TabularDataset.from_csv(str(folder / "odd.csv"), target_column="kind")
    data = Preprocessor().fit(raw).transform(raw)
    path = folder / "model"
    model = ModelRegistry.get("gb_classifier")(max_iter=5, min_samples_leaf=5)
    model.train(experiment_name="x", train_data=data, tracking=False, model_path=str(path))
    return path


@pytest.fixture
def open_page(browser: Browser, server: str) -> Iterator[Open]:
    """Open the page; what it should not do in any test is looked for at the end of each."""
    found: list[str] = []
    contexts = []

    def note(message: ConsoleMessage) -> None:
        # Chromium itself tells of each refused request; the tests of these look at the page.
        if message.type in {"error", "warning"} and "Failed to load resource" not in message.text:
            found.append(message.text)

    def open_it(address: str = server, info: dict[str, Any] | None = None, **options: Any) -> Page:
        context = browser.new_context(permissions=CLIPBOARD, **options)
        context.set_default_timeout(10_000)
        contexts.append(context)
        page = context.new_page()
        page.on("console", note)
        page.on("pageerror", lambda error: found.append(str(error)))
        page.on(
            "request",
            lambda request: (
                None
                if request.url.startswith((address, "data:", "blob:"))
                else found.append(f"request to {request.url}")
            ),
        )
        if info is not None:
            page.route("**/info", lambda route: route.fulfill(json=info))
        page.goto(address if address.endswith("/") else f"{address}/")
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert found == []


@pytest.fixture
def page(open_page: Open) -> Page:
    return open_page()


def predict(page: Page) -> str:
    """Press the button; returns the class."""
    page.get_by_role("button", name="Predict").click()
    # The answer to an earlier case stands there until the new one has come.
    expect(page.locator("#stale")).to_be_hidden()
    return page.locator(".verdict").inner_text()


def score(page: Page, text: str) -> None:
    # A browser takes seconds to type a long text.
    page.get_by_label("Paste rows").evaluate("(box, text) => { box.value = text; }", text)
    page.get_by_role("button", name="Score rows").click()


def paste(page: Page, text: str) -> None:
    """Paste from the clipboard, which a browser without a screen sometimes finds empty."""
    box = page.get_by_label("Paste rows")
    deadline = time.monotonic() + 30
    while not box.input_value() and time.monotonic() < deadline:
        page.evaluate("text => navigator.clipboard.writeText(text)", text)
        box.press("Control+V")


def downloaded(page: Page) -> tuple[str, str]:
    """Download the scored table; returns the name of the file and its text."""
    with page.expect_download() as download:
        page.get_by_role("button", name="Download scored CSV").click()
    content = Path(download.value.path()).read_bytes().decode("utf-8")
    return download.value.suggested_filename, content


def as_csv(header: list[str], rows: list[list[Any]], delimiter: str = ",") -> str:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerows([header, *rows])
    return text.getvalue()


def iris_rows(number: int) -> list[list[float]]:
    values = np.random.default_rng(1).uniform(0.2, 7, size=(number, 4))
    return [[round(value, 3) for value in row] for row in values.tolist()]


def info_of(address: str) -> dict[str, Any]:
    info: dict[str, Any] = httpx2.get(f"{address}/info").json()
    return info


def test_the_form_begins_with_a_training_row_and_predicts_it(page: Page, iris_model: Path) -> None:
    for name, value in ROW.items():
        expect(page.get_by_label(name, exact=True)).to_have_value(str(value))
    assert predict(page) == "setosa"
    bars = page.get_by_role("list", name="Probability of each class").get_by_role("listitem")
    expect(bars).to_have_count(3)
    chance = Predictor.load(str(iris_model)).predict([ROW]).probabilities[0].max()
    assert bars.first.inner_text().split("\n") == ["setosa", f"{chance * 100:.1f} %"]
    assert page.title() == "iris"


def test_other_values_give_another_class(page: Page) -> None:
    assert predict(page) == "setosa"
    page.get_by_label("petal_length_cm").fill("5.9")
    expect(page.get_by_text("The values have changed since")).to_be_visible()
    page.get_by_label("petal_width_cm").fill("2.3")
    page.get_by_label("petal_width_cm").press("Enter")
    expect(page.locator(".verdict")).to_have_text("virginica")
    expect(page.get_by_text("The values have changed since")).to_be_hidden()
    page.get_by_role("button", name="Next").click()
    expect(page.get_by_text("Training row 2 of 5")).to_be_visible()
    assert page.get_by_label("petal_length_cm").input_value() == "4.7"
    page.get_by_role("button", name="Predict").click()
    expect(page.locator(".verdict")).to_have_text("versicolor")
    page.get_by_role("button", name="Previous").click()
    page.get_by_role("button", name="Previous").click()
    expect(page.get_by_text("Training row 5 of 5")).to_be_visible()


def test_an_empty_field_is_a_missing_value(page: Page, iris_model: Path) -> None:
    page.get_by_label("petal_length_cm").fill("")
    page.get_by_label("petal_width_cm").fill("")
    row = {**ROW, "petal_length_cm": None, "petal_width_cm": None}
    expected = Predictor.load(str(iris_model)).predict([row])
    assert predict(page) == expected.labels[0]
    expect(page.locator(".bar .share").first).to_have_text(
        f"{expected.probabilities[0].max() * 100:.1f} %"
    )


def test_a_value_unlike_those_of_the_training_is_noted_in_words(page: Page) -> None:
    field = page.get_by_label("sepal_length_cm")
    expect(field).to_have_accessible_description(re.compile("^4.3 to 7.9 in training"))
    field.fill("12")
    expect(field).to_have_accessible_description(re.compile("Higher than anything in training"))
    expect(page.get_by_text("1 value outside of the training data")).to_be_visible()
    field.fill("0")
    expect(field).to_have_accessible_description(re.compile("Lower than anything in training"))
    field.fill("5")
    expect(page.get_by_text("than anything in training")).to_be_hidden()


def test_what_the_server_refuses_is_told_in_its_words(page: Page) -> None:
    page.get_by_label("petal_width_cm").fill("1e300")
    page.get_by_role("button", name="Predict").click()
    alert = page.locator("#predict-problem")
    expect(alert).to_contain_text("Row 1: feature 'petal_width_cm': 1e+300 is too large")
    expect(alert).to_have_role("alert")
    page.get_by_label("petal_width_cm").fill("0.2")
    assert predict(page) == "setosa"
    expect(alert).to_be_hidden()


def test_what_is_no_number_is_not_sent(page: Page) -> None:
    field = page.get_by_label("petal_width_cm")
    field.fill("")
    field.press_sequentially("1e")
    page.get_by_role("button", name="Predict").click()
    expect(page.locator("#predict-problem")).to_have_text("petal_width_cm: This is not a number.")
    expect(field).to_be_focused()
    expect(field).to_have_attribute("aria-invalid", "true")


def test_a_server_that_is_gone_is_told(page: Page) -> None:
    page.route("**/predict", lambda route: route.abort())
    page.get_by_role("button", name="Predict").click()
    expect(page.locator("#predict-problem")).to_contain_text("can't be reached")
    page.unroute("**/predict")
    page.route("**/predict", lambda route: route.fulfill(status=502, body="<h1>Bad</h1>"))
    page.get_by_role("button", name="Predict").click()
    expect(page.locator("#predict-problem")).to_contain_text("The server answered 502")


def test_a_model_that_can_not_be_loaded_can_be_asked_for_again(
    open_page: Open, server: str
) -> None:
    page = open_page(info={})
    page.unroute_all()
    page.route("**/info", lambda route: route.abort())
    page.reload()
    expect(page.locator("#load-problem")).to_contain_text("can't be reached")
    page.unroute_all()
    page.get_by_role("button", name="Try again").click()
    assert predict(page) == "setosa"


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_pasted_table_is_scored_as_by_the_predictor(
    page: Page, iris_model: Path, delimiter: str
) -> None:
    rows: list[list[Any]] = [[*row, f'no. {i}, "x"'] for i, row in enumerate(iris_rows(30))]
    rows[3][1] = None
    names = [*ROW, "remark"]
    order = [4, 2, 0, 3, 1]
    text = as_csv([names[i] for i in order], [[row[i] for i in order] for row in rows], delimiter)
    paste(page, text)
    page.get_by_role("button", name="Score rows").click()
    expect(page.locator("#table-status")).to_have_text("30 rows scored.")

    expected = Predictor.load(str(iris_model)).predict([row[:4] for row in rows])
    shown = page.locator("#rows tbody tr")
    assert shown.locator(".predicted").all_inner_texts() == expected.labels
    assert shown.nth(3).locator("td").nth(2).inner_text() == 'no. 3, "x"'
    file_name, content = downloaded(page)
    assert file_name == "rows_scored.csv"
    records = list(csv.DictReader(io.StringIO(content, newline=""), delimiter=delimiter))
    classes = [f"probability_{name}" for name in expected.class_names]
    assert list(records[0]) == [*(names[i] for i in order), "prediction", *classes]
    assert [record["prediction"] for record in records] == expected.labels
    found = [[float(record[name]) for name in classes] for record in records]
    assert np.allclose(found, expected.probabilities, rtol=0, atol=1e-6)
    for record, row in zip(records, rows, strict=True):
        assert [record[name] for name in names] == ["" if v is None else str(v) for v in row]


def test_decimal_commas_are_numbers_where_no_comma_delimits(page: Page) -> None:
    score(page, f"{';'.join(ROW)}\n5,1;3,5;1,4;0,2\n6,3;;6;2,5\n")
    expect(page.locator("#table-status")).to_have_text("2 rows scored.")
    assert page.locator(".predicted").all_inner_texts() == ["setosa", "virginica"]
    _, content = downloaded(page)
    first = list(csv.reader(io.StringIO(content), delimiter=";"))[1]
    assert first[:5] == ["5,1", "3,5", "1,4", "0,2", "setosa"]
    assert re.fullmatch(r"0,9\d+", first[5])


def test_a_chosen_and_a_dropped_file_are_scored(page: Page) -> None:
    text = as_csv(["target", *ROW], [["setosa", *ROW.values()], ["virginica", *ROW.values()]])
    file = {"name": "my rows.csv", "mimeType": "text/csv", "buffer": text.encode("utf-8-sig")}
    page.get_by_label("Or drop a file here").set_input_files(file)  # type: ignore[arg-type]
    expect(page.locator("#table-status")).to_have_text(
        "2 rows scored. The prediction is the same as column “target” in 1 (50.0 %)."
    )
    assert downloaded(page)[0] == "my rows_scored.csv"
    page.reload()
    expect(page.locator("#content")).to_be_visible()
    data = page.evaluate_handle(
        """(text) => {
            const data = new DataTransfer();
            data.items.add(new File([text], "dropped.csv"));
            return data;
        }""",
        text,
    )
    for kind in ("dragenter", "dragover"):
        page.dispatch_event("#drop", kind, {"dataTransfer": data})
    expect(page.locator("#drop")).to_have_class("over")
    page.dispatch_event("#drop", "drop", {"dataTransfer": data})
    expect(page.locator("#table-status")).to_contain_text("2 rows scored.")
    assert downloaded(page)[0] == "dropped_scored.csv"


def test_the_download_holds_no_formula(page: Page) -> None:
    remarks = ["=1+1", "+cmd", "-x", "@sum", "-1", "+2.5e3", "fine", '=a,"b"']
    rows = [[*ROW.values(), remark] for remark in remarks]
    score(page, as_csv([*ROW, "remark"], rows))
    _, content = downloaded(page)
    found = [row["remark"] for row in csv.DictReader(io.StringIO(content))]
    assert found == ["'=1+1", "'+cmd", "'-x", "'@sum", "-1", "+2.5e3", "fine", '\'=a,"b"']


def test_many_rows_go_in_several_requests(page: Page, iris_model: Path) -> None:
    sizes: list[int] = []

    def watch(route: Route) -> None:
        sizes.append(len(json.loads(route.request.post_data or "")["features"]))
        # The server is busy once.
        if len(sizes) == 2:
            route.fulfill(status=429, json={"detail": "busy"}, headers={"retry-after": "1"})
        else:
            route.continue_()

    page.route("**/predict", watch)
    rows = iris_rows(2_300)
    paste(page, as_csv(list(ROW), rows))
    page.get_by_role("button", name="Score rows").click()
    expect(page.locator("#table-status")).to_have_text("2,300 rows scored.")
    assert sizes == [1000, 1000, 1000, 300]
    expect(page.locator("#rows tbody tr")).to_have_count(200)
    expect(page.locator("#rows-status")).to_contain_text("the first 200 of 2,300 rows")
    _, content = downloaded(page)
    found = [row["prediction"] for row in csv.DictReader(io.StringIO(content))]
    expected = Predictor.load(str(iris_model)).predict(rows).labels
    assert found == expected
    counts = page.locator("#counts li").all_inner_texts()
    assert sorted(line.split("\n")[0] for line in counts) == sorted(set(expected))

    page.unroute_all()
    rows[1_202][3] = 1e300
    score(page, as_csv(list(ROW), rows))
    expect(page.locator("#table-problem")).to_contain_text(
        "Row 1203: feature 'petal_width_cm': 1e+300 is too large"
    )


HEADER = ",".join(ROW)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "There are no rows"),
        (HEADER, "There are no rows below the header."),
        (f"{HEADER}\n1,2,3,4\n1,2,x<b>,4\n", "Row 2, column “petal_length_cm”: “x<b>” is not"),
        (f"{HEADER}\n1,2,x,4\n1,y,z,4\n", "There are 2 more."),
        (f"{HEADER}\n1,2,3,4\n\n1,2,3\n", "Row 2 has 3 cells, the header 4."),
        (f"{HEADER}\n1,2,3,1e999\n", "Row 1, column “petal_width_cm”: 1e999 is too large"),
        ("sepal_length_cm,petal_width_cm\n1,2\n", "lacks “sepal_width_cm”, “petal_length_cm”."),
        ("5.1,3.5,1.4,0.2\n", "The first line has to name the columns."),
        (f"{HEADER},petal_width_cm\n", "Column 5: “petal_width_cm” is there twice."),
        (f'{HEADER}\n1,2,3,4\n1,"2,3,4\n', "Line 3: a quotation mark is not closed."),
    ],
)
def test_what_is_wrong_with_a_table_is_told_with_its_place(
    page: Page, text: str, message: str
) -> None:
    expect(page.locator("#content")).to_be_visible()
    score(page, text)
    expect(page.locator("#table-problem")).to_contain_text(message)
    expect(page.locator("#scored")).to_be_hidden()


def test_the_keyboard_is_enough(page: Page) -> None:
    expect(page.locator("#content")).to_be_visible()
    seen: list[str] = []
    focused = "document.activeElement.id || document.activeElement.textContent.trim()"
    for _ in range(9):
        page.keyboard.press("Tab")
        seen.append(page.evaluate(focused))
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid", seen
    assert seen == [
        "Skip to the content",
        "API",
        "Metrics",
        "Info (JSON)",
        "sample-previous",
        "sample-next",
        "feature-0",
        "feature-1",
        "feature-2",
    ]
    page.keyboard.press("Control+A")
    page.keyboard.type("6")
    page.keyboard.press("Tab")
    page.keyboard.press("Control+A")
    page.keyboard.type("2.3")
    page.keyboard.press("Enter")
    expect(page.locator(".verdict")).to_have_text("virginica")
    assert page.evaluate(focused) == "feature-3"
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#curl")).to_be_visible()
    expect(page.locator("#curl")).to_contain_text('"petal_length_cm":6,"petal_width_cm":2.3')


def test_names_are_text_whatever_they_are(open_page: Open, odd_model: Path) -> None:
    with serving_in_a_thread(create_app({"x.y-z": load_model(str(odd_model))})) as address:
        page = open_page(address)
        expect(page.get_by_role("heading", level=1)).to_have_text("x.y-z")
        row = info_of(address)["sample"][0]
        body = {"features": [row]}
        expected = httpx2.post(f"{address}/predict", json=body).json()["predictions"][0]
        assert predict(page) == expected
        assert expected in ODD_CLASSES
        labels = page.locator("#fields label").all_inner_texts()
        assert labels == [SCRIPT, QUOTES, "__proto__", "flag", "count"]
        assert page.get_by_label("flag").input_value() == json.dumps(row["flag"])
        page.get_by_label("count").fill("2.5")
        expect(page.get_by_text("whole numbers only")).to_be_visible()
        score(page, as_csv(list(row), [list(row.values())]))
        expect(page.locator(".predicted")).to_have_text(expected)
        assert page.locator("main script, main img, h1 i").count() == 0
        assert page.title() == "x.y-z"


def test_the_command_asks_the_same(open_page: Open, odd_model: Path) -> None:
    with serving_in_a_thread(create_app({"odd": load_model(str(odd_model))})) as address:
        page = open_page(address)
        predicted = predict(page)
        page.get_by_text("The same as a command").click()
        page.get_by_role("button", name="Copy").click()
        expect(page.locator("#copy-status")).to_have_text("Copied.")
        command = page.evaluate("navigator.clipboard.readText()")
        # The shell itself says what curl would be given.
        shell = subprocess.run(
            ["sh", "-c", f"curl() {{ printf '%s\\0' \"$@\"; }}; {command}"],
            capture_output=True,
            check=True,
        )
        url, option, header, data, body, end = shell.stdout.decode().split("\0")
        assert (option, data, end) == ("-H", "-d", "")
        answer = httpx2.post(url, content=body, headers=dict([header.split(": ")]))
        assert answer.json()["predictions"] == [predicted]


def test_a_token_is_asked_for_and_forgotten(open_page: Open, iris_model: Path) -> None:
    settings = ServerSettings(token="canary-token")
    app = create_app({"iris": load_model(str(iris_model))}, settings)
    with serving_in_a_thread(app) as address:
        page = open_page(address)
        token = page.get_by_label("Bearer token")
        expect(token).to_be_focused()
        token.fill("wrong")
        token.press("Enter")
        expect(page.get_by_text("The server does not take this token.")).to_be_visible()
        token.fill("canary-token")
        token.press("Enter")
        assert predict(page) == "setosa"
        expect(token).to_be_hidden()
        expect(page.locator("#curl")).to_contain_text("Authorization: Bearer $TOKEN")
        assert "canary" not in page.content()
        assert page.evaluate("localStorage.length + sessionStorage.length") == 0
        page.reload()
        expect(token).to_be_visible()


def test_each_of_several_models_can_be_chosen(
    open_page: Open, iris_model: Path, wine_model: Path
) -> None:
    models = {"iris": load_model(str(iris_model)), "red.wine-2": load_model(str(wine_model))}
    with serving_in_a_thread(create_app(models)) as address:
        page = open_page(address)
        assert predict(page) == "setosa"
        choice = page.get_by_label("Model", exact=True)
        choice.select_option("red.wine-2")
        expect(page.get_by_role("heading", level=1)).to_have_text("red.wine-2")
        expect(page.locator(".verdict")).to_have_count(0)
        assert predict(page) == "class_0"
        page.get_by_label("Find a feature").fill("ALCO")
        expect(page.locator(".field:visible")).to_have_count(1)
        page.route("**/info", lambda route: route.abort())
        choice.select_option("iris")
        expect(page.locator("#load-problem")).to_be_visible()
        expect(choice).to_have_value("red.wine-2")


def test_the_page_works_behind_a_prefix(open_page: Open, iris_model: Path) -> None:
    app = create_app({"iris": load_model(str(iris_model))})
    with serving_in_a_thread(Starlette(routes=[Mount("/some/model", app=app)])) as address:
        page = open_page(f"{address}/some/model/")
        assert predict(page) == "setosa"
        links = page.get_by_role("navigation").get_by_role("link")
        for link in links.all():
            url = link.evaluate("link => link.href")
            assert httpx2.get(url).status_code == 200, url


def test_the_card_shows_what_is_known(open_page: Open, server: str) -> None:
    info = info_of(server)
    info |= {
        "metrics": {"train_loss": 0.1, "val_loss": None, "val_accuracy": 0.93334, "cv_loss": 0.2},
        "confusion_matrices": {"test": [[9, 1, 0], [0, 8, 2], [0, 0, 10]]},
        "history": [
            {"step": 1, "train_loss": 1.0, "val_loss": 1.1},
            {"step": 2, "train_loss": 0.5, "val_loss": None},
            {"step": 3, "train_loss": 0.4, "val_loss": 0.6},
        ],
        "run_id": "run-1",
        "reload_problem": "it is gone",
    }
    page = open_page(info=info)
    metrics = page.get_by_role("region", name="Metrics")
    heads = metrics.get_by_role("columnheader").all_inner_texts()
    assert heads == ["Metric", "Training", "Validation", "Cross-validation"]
    loss = metrics.get_by_role("row").nth(1).get_by_role("cell").all_inner_texts()
    assert loss == ["0.1", "\N{EN DASH}", "0.2"]
    matrix = page.get_by_role("table", name="Test")
    assert matrix.get_by_role("row").nth(2).inner_text().split() == ["versicolor", "0", "8", "2"]
    curve = page.get_by_role("img", name="Loss by step of training")
    expect(curve).to_have_accessible_description(
        "3 steps. Training: from 1 to 0.4; Validation: from 1.1 to 0.6."
    )
    expect(page.get_by_text("A newer version can't be used")).to_be_visible()
    facts = page.locator("#facts").inner_text()
    assert "run-1" in facts
    assert info["version"] in facts
    assert page.locator("#card td .strip title").count() == 4


@pytest.mark.parametrize("is_null", [False, True])
def test_nothing_has_to_be_known_of_a_model(open_page: Open, server: str, is_null: bool) -> None:
    full = info_of(server)
    needed = {
        "name": "iris",
        "features": [{"name": name} for name in ROW],
        "accepts_missing": False,
    }
    page = open_page(info={**(dict.fromkeys(full) if is_null else {}), **needed})
    page.get_by_role("button", name="Predict").click()
    expect(page.locator("#predict-problem")).to_have_text("sepal_length_cm: A value is needed.")
    for name, value in ROW.items():
        page.get_by_label(name).fill(str(value))
    assert predict(page) == "setosa"
    score(page, f"{HEADER}\n1,2,,4\n")
    expect(page.locator("#table-problem")).to_have_text(
        "Row 1, column “petal_length_cm”: a value is needed."
    )
    assert page.locator("main").inner_text().count("null") == 0


def test_hundreds_of_features_and_classes_stay_usable(open_page: Open, server: str) -> None:
    features = [
        {"name": f"gene_{i}", "type": "float", "min": 0, "max": 1, "quantiles": None}
        for i in range(300)
    ]
    classes = [f"kind_{i}" for i in range(50)]
    chances = {name: 1 / 2 ** (i + 1) for i, name in enumerate(classes)}
    matrix = np.eye(50, dtype=int)
    matrix[3, 7] = 12
    info = {
        **info_of(server),
        "features": features,
        "class_names": classes,
        "sample": [{feature["name"]: 0.5 for feature in features}],
        "confusion_matrices": {"val": matrix.tolist()},
    }
    page = open_page(info=info, viewport=NARROW)
    answer = {"predictions": ["kind_0"], "probabilities": [chances]}
    page.route("**/predict", lambda route: route.fulfill(json=answer))
    expect(page.locator("#filter-status")).to_have_text("300 features")
    page.get_by_label("Find a feature").fill("gene_29")
    expect(page.locator("#filter-status")).to_have_text("11 of 300 features")
    expect(page.locator(".field:visible")).to_have_count(11)
    assert predict(page) == "kind_0"
    expect(page.locator("#bars li")).to_have_count(20)
    expect(page.locator("#bars-rest")).to_have_text("30 further classes, together < 0.1 %")
    mistakes = page.get_by_role("region", name="Validation: right and wrong")
    assert mistakes.get_by_role("row").nth(1).inner_text().split() == ["kind_3", "kind_7", "12"]
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_nothing_is_wider_than_a_small_phone(open_page: Open, odd_model: Path) -> None:
    with serving_in_a_thread(create_app({"m" * 64: load_model(str(odd_model))})) as address:
        page = open_page(address, viewport=NARROW)
        predict(page)
        page.get_by_text("The same as a command").click()
        row = info_of(address)["sample"][0]
        score(page, as_csv([*row, "long " * 50], [[*row.values(), "x" * 500]] * 5))
        expect(page.locator("#scored")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360


CONTRAST = """() => {
    const channels = (color) => color.match(/[\\d.]+/g).map(Number);
    const ground = (element) => {
        for (let at = element; at; at = at.parentElement) {
            const [r, g, b, alpha = 1] = channels(getComputedStyle(at).backgroundColor);
            if (alpha === 1) return [r, g, b];
            // What is half transparent lies on what is below it.
            if (alpha > 0 && at.parentElement) {
                const below = ground(at.parentElement);
                return [r, g, b].map((value, i) => value * alpha + below[i] * (1 - alpha));
            }
        }
        return [255, 255, 255];
    };
    const light = (rgb) => {
        const [r, g, b] = rgb.map((value) => {
            const share = value / 255;
            return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const found = [];
    for (const element of document.querySelectorAll("body *")) {
        const text = [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
        if (!text || !element.checkVisibility() || element.closest("svg, option")) continue;
        const color = channels(getComputedStyle(element).color).slice(0, 3);
        const pair = [light(color), light(ground(element))].sort((a, b) => b - a);
        const ratio = (pair[0] + 0.05) / (pair[1] + 0.05);
        if (ratio < 4.5) found.push(`${ratio.toFixed(2)} ${element.outerHTML.slice(0, 120)}`);
    }
    return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_light_and_dark(open_page: Open, server: str, scheme: str) -> None:
    info = {**info_of(server), "reload_problem": "it is gone"}
    page = open_page(info=info, color_scheme=scheme)
    page.get_by_label("petal_width_cm").fill("9")
    predict(page)
    page.get_by_text("The same as a command").click()
    score(page, "x\n1\n")
    expect(page.locator("#table-problem")).to_be_visible()
    assert page.evaluate(CONTRAST) == []
    score(page, f"{HEADER}\n5,3,1,0.2\n")
    expect(page.locator("#scored")).to_be_visible()
    assert page.evaluate(CONTRAST) == []
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    red = int(re.findall(r"\d+", ground)[0])
    assert red > 240 if scheme == "light" else red < 40


def test_each_control_has_a_name_and_the_page_an_outline(open_page: Open, odd_model: Path) -> None:
    with serving_in_a_thread(create_app({"odd": load_model(str(odd_model))})) as address:
        page = open_page(address)
        expect(page.locator("#content")).to_be_visible()
        nameless = page.evaluate(
            """() => [...document.querySelectorAll("input, select, textarea")]
                .filter((control) => !control.labels.length || !control.labels[0].textContent)
                .map((control) => control.outerHTML)"""
        )
        assert nameless == []
        assert page.locator("html").get_attribute("lang") == "en"
        for role in ("banner", "main", "navigation"):
            expect(page.get_by_role(role)).to_have_count(1)
        levels = page.locator("h1:visible, h2:visible, h3:visible").evaluate_all(
            "headings => headings.map((heading) => Number(heading.tagName[1]))"
        )
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
        ids = page.evaluate("[...document.querySelectorAll('[id]')].map((e) => e.id)")
        assert len(ids) == len(set(ids))
        assert page.locator("[style]:not(.track span):not(.matrix td)").count() == 0


# Categories, dates and numbers as answers


@pytest.fixture(scope="module")
def flats_server(class_model: Loaded, number_model: Loaded) -> Iterator[str]:
    app = create_app({"prices": number_model.inference, "flats": class_model.inference})
    with serving_in_a_thread(app) as address:
        yield address


def test_a_regression_is_tried_with_levels_and_dates(
    open_page: Open, flats_server: str, number_model: Loaded
) -> None:
    page = open_page(flats_server)
    sample = number_model.predictor.sample[1]
    page.get_by_role("button", name="Next").click()
    city = page.get_by_label("city", exact=True)
    assert city.locator("option").all_inner_texts() == ["missing", "Bonn", "Köln", "Rome"]
    built = page.get_by_label("built", exact=True)
    expect(built).to_have_attribute("type", "date")
    expect(built).to_have_value(str(sample["built"]))
    (expected,) = number_model.numbers([sample])
    assert float(predict(page)) == pytest.approx(expected, rel=1e-5)
    expect(page.locator("#bars > li")).to_have_count(0)
    expect(page.locator("#verdict .marker")).to_have_count(1)
    expect(page.locator("#verdict")).to_contain_text("in training")

    city.select_option("missing")
    built.fill("2030-01-01")
    page.get_by_label("size", exact=True).fill("2000")
    expect(page.locator("#stale")).to_be_visible()
    expect(page.locator("#feature-5-note")).to_contain_text("⚠ Later than anything in training")
    (expected,) = number_model.numbers(
        [{**sample, "city": None, "built": "2030-01-01", "size": 2000}]
    )
    assert float(predict(page)) == pytest.approx(expected, rel=1e-5)
    expect(page.locator("#verdict")).to_contain_text("⚠ Outside of the training")
    expect(page.locator("#curl")).to_contain_text('"city":null')
    built.fill("")
    page.get_by_role("button", name="Predict").click()
    expect(page.locator("#predict-problem")).to_have_text("built: A value is needed.")


def test_a_table_with_texts_is_scored_with_numbers(
    open_page: Open, flats_server: str, number_model: Loaded
) -> None:
    page = open_page(flats_server)
    frame = flats(30)
    frame.loc[3, "city"] = "Paris"
    expected = number_model.numbers(frame)
    score(page, frame.assign(price=[value + 2 for value in expected]).to_csv(index=False))
    status = page.locator("#table-status")
    expect(status).to_contain_text("30 rows scored. The prediction is 2 away from column “price”")
    shown = page.locator("#rows td.predicted").all_inner_texts()
    np.testing.assert_allclose([float(text) for text in shown], expected, rtol=1e-5)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download scored CSV").click()
    rows = list(csv.DictReader(io.StringIO(download.value.path().read_text("utf-8"))))
    np.testing.assert_allclose([float(row["prediction"]) for row in rows], expected)
    assert [name for name in rows[0] if name.startswith("probability")] == []
    score(page, frame.assign(built="soon").to_csv(index=False))
    expect(page.locator("#table-problem")).to_contain_text(
        "Row 1, column “built”: “soon” is not a date such as 2024-01-31. There are 29 more."
    )


def test_the_threshold_and_the_levels_are_told(open_page: Open, flats_server: str) -> None:
    page = open_page(flats_server)
    page.get_by_label("Model", exact=True).select_option("flats")
    expect(page.locator("#facts")).to_contain_text("“dear” from 20.0 % on")
    expect(page.locator("#card")).to_contain_text("Bonn (")
    expect(page.locator("#card")).to_contain_text("2024-08-09")
    values = {"size": "41.5", "rooms": "2", "built": "1990-02-01"}
    for name, value in values.items():
        page.get_by_label(name, exact=True).fill(value)
    page.get_by_label("city", exact=True).select_option("Rome")
    page.get_by_label("zone", exact=True).select_option("1")
    page.get_by_label("garden", exact=True).select_option("false")
    assert predict(page) == "dear"
    expect(page.locator("#verdict")).to_contain_text("“dear” is said from 20.0 % on")


def test_a_date_with_a_time_is_read_and_written(
    open_page: Open, flats_server: str, number_model: Loaded
) -> None:
    info = httpx2.get(f"{flats_server}/info").json()
    built = info["features"][5]
    built["max"] += 5_400
    info["sample"] = [{**info["sample"][0], "built": "1990-02-01T10:30:00+02:00"}]
    page = open_page(flats_server, info=info)
    field = page.get_by_label("built", exact=True)
    expect(field).to_have_attribute("type", "datetime-local")
    expect(field).to_have_value("1990-02-01T08:30")
    (expected,) = number_model.numbers([{**info["sample"][0], "built": "1990-02-01T08:30"}])
    assert float(predict(page)) == pytest.approx(expected, rel=1e-5)
