"""The rules of the house: where code lives, how long its lines, cells and functions are."""

import json

import house
import pytest


@pytest.fixture(scope='module')
def counts():
    return house.count_house()


def test_no_rule_is_broken_more_often_than_before(counts, record_property):
    "What is not yet as the rules say may only become less"
    allowed = json.loads(house.DEBTS.read_text())
    worse = {
        f'{file}: {house.RULES[rule]}': (allowed.get(file, {}).get(rule, 0), n)
        for file, found in counts.items()
        for rule, n in found.items()
        if n > allowed.get(file, {}).get(rule, 0)
    }
    for rule, n in house.totals(counts).items():
        record_property('house', f'{n:5} {house.RULES[rule]}')
    assert not worse, f'before and now: {worse}'


def test_what_was_mended_is_kept(counts):
    "The file of exceptions holds no more than there are: python tests/house.py --write"
    allowed = json.loads(house.DEBTS.read_text())
    assert allowed == counts


def test_a_room_imports_only_from_rooms_below():
    assert not house.upward()


def test_no_import_goes_in_a_circle():
    assert not house.circles()


def test_no_private_name_leaves_its_module():
    assert not house.private_imports()


@pytest.mark.parametrize(
    'code, rule',
    [
        ('x = "' + 'a' * 120 + '"', 'columns'),
        ('a = 1; b = 2', 'semicolons'),
        ('[[y for y in x] for x in z]', 'nested'),
        ('def f():\n' + '    a = 1\n' * 40, 'functions'),
    ],
)
def test_each_rule_finds_what_breaks_it(code, rule):
    assert house.count_code(code)[rule] == 1
    assert house.count_code('x = [y for y in "a;b"]  # ; in words')[rule] == 0


def test_a_cell_of_parameters_has_a_line_for_each_and_no_other():
    "Papermill takes one tagged cell, which cannot be cut"
    parameters = ''.join(f'size_{i}: int = {i}  # of one thing\n' for i in range(34))
    tagged = dict(metadata=dict(tags=['parameters']), source=[parameters])
    assert house.allowed_lines(tagged) == 34
    assert house.allowed_lines(tagged | dict(source=[parameters + 'import os\n' * 6])) == 34
    assert house.allowed_lines(dict(metadata={}, source=[parameters])) == house.CELL


def test_complex_functions_are_found():
    body = ''.join(f'    if x == {i}: return {i}\n' for i in range(11))
    assert house.complexity({'a': f'def f(x):\n{body}', 'b': 'def g(): pass'}) == {'a': 1}
