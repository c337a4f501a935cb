"""What the pages of the models room held in hidden cells."""

import pytest
import torch

from ff_nbdev.models.sites import find_sites
from ff_nbdev.models.tiny import TINY, new_blocks, random_tiny


@pytest.mark.parametrize('arch', TINY)
def test_new_blocks_change_the_feed_forward_matrices_and_nothing_else(arch):
    one = random_tiny(arch, seed=3)
    two = new_blocks(one, 256, seed=4)
    mine = {f'{site.name}.{site.names[role]}.weight' for site in find_sites(two) for role in site.names}
    old = dict(one.named_parameters())
    assert {site.d_ff for site in find_sites(two)} == {256} and {site.d_ff for site in find_sites(one)} == {128}
    assert len(mine) == sum(len(site.names) for site in find_sites(one))
    for name, p in two.named_parameters():
        if name in mine or p.shape == old[name].shape:
            assert (name in mine) != torch.equal(p, old[name])
    ids = torch.randint(2, 512, (2, 8))
    assert torch.isfinite(two(input_ids=ids, labels=ids).loss)


@pytest.mark.parametrize('arch', TINY)
def test_new_blocks_follow_their_seed(arch):
    one = random_tiny(arch, seed=3)
    pairs = zip(new_blocks(one, seed=4).parameters(), new_blocks(one, seed=4).parameters())
    assert all(torch.equal(p, q) for p, q in pairs)
