"""ATC (Stooke et al. 2020, arXiv:2009.08319), as somebody outside of crl would write it."""

import copy

import torch as th
import torch.nn.functional as F
from torch import nn

from crl.contract import DataRequest, Objective


class OutsideATC(Objective):
    """An observation should be recognised from the one k steps earlier, through a residual predictor."""

    def __init__(self, k=3, latent=16, tau=0.01, **kwargs):
        super().__init__(**kwargs)
        self.request = DataRequest("sequence", steps=k)
        self.k, self.latent, self.tau = k, latent, tau

    def build(self, encoder, spaces):
        self.encoder = encoder
        self.head = nn.Linear(encoder.features_dim, self.latent)
        self.predictor = nn.Sequential(nn.Linear(self.latent, 32), nn.ReLU(), nn.Linear(32, self.latent))
        self.weight = nn.Linear(self.latent, self.latent, bias=False)
        self.key_encoder, self.key_head = copy.deepcopy(encoder), copy.deepcopy(self.head)
        self.key_encoder.requires_grad_(False)
        self.key_head.requires_grad_(False)

    def loss(self, batch, features=None):
        c = self.head(self.encoder(batch.view(0)) if features is None else features)
        query = self.weight(c + self.predictor(c))
        with th.no_grad():
            key = self.key_head(self.key_encoder(batch.view(self.k)))
        labels = th.arange(len(batch), device=key.device)
        valid = batch.mask[:, self.k - 1]
        logits = query @ key.T
        loss = (F.cross_entropy(logits, labels, reduction="none") * valid).sum() / valid.sum().clamp(min=1)
        accuracy = ((logits.argmax(1) == labels) & valid).sum() / valid.sum().clamp(min=1)
        return loss, {"loss": loss.detach(), "accuracy": accuracy}

    @th.no_grad()
    def after_step(self):
        for key, online in ((self.key_encoder, self.encoder), (self.key_head, self.head)):
            for a, b in zip(key.parameters(), online.parameters(), strict=True):
                a.lerp_(b, self.tau)
