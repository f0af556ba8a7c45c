"""Q networks of Rainbow: distributional, dueling, noisy, each as a switch."""

from __future__ import annotations

from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from torch import nn

from crl.agents.network_input import network_input
from crl.encoders import BodyHeadEncoder, RainbowEncoder
from crl.networks import FastLinear, faster
from crl.networks.init import initialize
from crl.networks.noisy import NoisyLinear, noise_on, reset_noise

#: what the networks have beside SB3's
_OWN = ("n_atoms", "v_min", "v_max", "dueling", "noisy", "sigma0", "shared_arch", "grad_scale", "head_init")


class RainbowNetwork(QNetwork):
    """
    Logits of return distributions (Bellemare et al. 2017) through separate value and advantage streams (Wang et al. 2016,
    arXiv:1511.06581) of noisy layers (Fortunato et al. 2018).

    :param observation_space: channels-first images
    :param action_space: discrete
    :param features_extractor: the encoder
    :param features_dim: its width
    :param net_arch: hidden layers of each stream; ``[256]`` in data-efficient Rainbow, none where the streams fork behind a
        shared layer (Dopamine)
    :param activation_fn: between them
    :param normalize_images: see SB3
    :param n_atoms: points of the return grid; 1: plain Q values
    :param v_min: its lowest point
    :param v_max: its highest point
    :param dueling: value and advantages in streams of their own; else one stream
    :param noisy: layers of the streams are noisy
    :param sigma0: scale of the noise
    :param shared_arch: hidden layers before the streams fork; ``[512]`` in Dopamine
    :param grad_scale: factor of the gradient that the streams send into the encoder; ``2 ** -0.5`` in SPR
    :param head_init: of layers without noise: ``"xavier"`` (Dopamine) or ``"default"`` (torch's)
    """

    support: th.Tensor

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Discrete,
        features_extractor: BaseFeaturesExtractor,
        features_dim: int,
        net_arch: list[int] | None = None,
        activation_fn: type[nn.Module] = nn.ReLU,
        normalize_images: bool = True,
        n_atoms: int = 51,
        v_min: float = -10.0,
        v_max: float = 10.0,
        dueling: bool = True,
        noisy: bool = True,
        sigma0: float = 0.1,
        shared_arch: list[int] | None = None,
        grad_scale: float = 1.0,
        head_init: str = "default",
    ) -> None:
        super().__init__(
            observation_space, action_space, features_extractor, features_dim, net_arch, activation_fn, normalize_images
        )
        if n_atoms < 1 or not v_min < v_max:
            raise ValueError(f"n_atoms={n_atoms}, v_min={v_min}, v_max={v_max}: at least one atom, v_min below v_max")
        if not 0.0 <= grad_scale <= 1.0:
            raise ValueError(f"grad_scale={grad_scale}: in [0, 1]")
        self.n_atoms = n_atoms
        self.v_min, self.v_max = v_min, v_max
        self.dueling = dueling
        self.noisy = noisy
        self.sigma0 = sigma0
        self.shared_arch = [] if shared_arch is None else list(shared_arch)
        self.grad_scale = grad_scale
        self.head_init = head_init
        del self.q_net  # SB3's own stream
        self.n_actions = int(action_space.n)
        # as net_arch=None is SB3's own default, none has to be an empty list
        widths = list(self.net_arch)
        self.shared, fork = self._layers(self.features_dim, self.shared_arch)
        self.advantage = self._stream(fork, widths, self.n_actions * n_atoms)
        self.value = self._stream(fork, widths, n_atoms) if dueling else None
        for part in (self.shared, self.advantage, self.value):
            if part is not None:
                initialize(part, head_init)
        self.register_buffer("support", th.linspace(v_min, v_max, n_atoms), persistent=False)
        self._noisy_layers = [layer for layer in self.modules() if isinstance(layer, NoisyLinear)]

    def _layers(self, before: int, widths: list[int]) -> tuple[nn.Sequential, int]:
        layers: list[nn.Module] = []
        for width in widths:
            layers += [self._linear(before, width), self.activation_fn()]
            before = width
        return nn.Sequential(*layers), before

    def _stream(self, before: int, widths: list[int], out: int) -> nn.Sequential:
        layers, last = self._layers(before, widths)
        return nn.Sequential(*layers, self._linear(last, out))

    def _linear(self, inputs: int, outputs: int) -> nn.Module:
        return NoisyLinear(inputs, outputs, self.sigma0) if self.noisy else FastLinear(inputs, outputs)

    def reset_noise(self) -> None:
        """Draw the noise of all layers anew, from torch's global generator."""
        reset_noise(self._noisy_layers)

    def first_layers(self) -> list[nn.Module]:
        """The dense layers that see the features, those of both streams where there is no shared one."""
        parts = [self.shared] if self.shared_arch else [self.value, self.advantage]
        return [part[0] for part in parts if part is not None]

    def encode(self, obs: PyTorchObs) -> th.Tensor:
        """
        :param obs: images as the buffer or the environment holds them
        :return: ``(batch, features_dim)``
        """
        extractor = self.features_extractor
        if not isinstance(extractor, BodyHeadEncoder):
            return self.extract_features(obs, extractor)
        assert isinstance(obs, th.Tensor)
        return extractor(network_input(obs, extractor, self.normalize_images))

    def encode_map(self, obs: th.Tensor) -> th.Tensor:
        """
        :param obs: as :meth:`encode`
        :return: what the convolutions make of it, ``(batch, filters, height, width)``, for objectives that look at it too
        """
        extractor = self.features_extractor
        assert isinstance(extractor, BodyHeadEncoder)
        return extractor.forward_body(network_input(obs, extractor, self.normalize_images))

    def logits(self, features: th.Tensor) -> th.Tensor:
        """
        :param features: ``(batch, features_dim)``
        :return: ``(batch, actions, atoms)``
        """
        if self.grad_scale != 1.0 and features.requires_grad:
            features = features.view_as(features)
            features.register_hook(lambda gradient: gradient * self.grad_scale)
        features = self.shared(features)
        advantage = self.advantage(features).view(-1, self.n_actions, self.n_atoms)
        if self.value is None:
            return advantage
        return self.value(features)[:, None, :] + advantage - advantage.mean(dim=1, keepdim=True)

    def logits_of(self, obs: PyTorchObs) -> th.Tensor:
        """Of images as the buffer holds them, ``(batch, actions, atoms)``."""
        return self.logits(self.encode(obs))

    def values(self, logits: th.Tensor) -> th.Tensor:
        """
        :param logits: from :meth:`logits`
        :return: Q values ``(batch, actions)``: means of the distributions
        """
        return logits.squeeze(2) if self.n_atoms == 1 else (logits.softmax(dim=2) * self.support).sum(dim=2)

    def forward(self, obs: PyTorchObs) -> th.Tensor:
        """Q values, ``(batch, actions)``."""
        return self.values(self.logits_of(obs))

    def _predict(self, observation: PyTorchObs, deterministic: bool = True) -> th.Tensor:
        if deterministic:
            return super()._predict(observation)
        with noise_on(self):
            return super()._predict(observation)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), **{name: getattr(self, name) for name in _OWN}}


class RainbowPolicy(DQNPolicy):
    """
    SB3's DQNPolicy with a :class:`RainbowNetwork`.

    :param observation_space: channels-first images
    :param action_space: discrete
    :param lr_schedule: see SB3
    :param net_arch: hidden layers of each stream
    :param features_extractor_class: the encoder
    :param n_atoms: see :class:`RainbowNetwork`
    :param v_min: see there
    :param v_max: see there
    :param dueling: see there
    :param noisy: see there
    :param sigma0: see there
    :param shared_arch: see there
    :param grad_scale: see there
    :param head_init: see there
    :param kwargs: see SB3's DQNPolicy
    """

    q_net: RainbowNetwork
    q_net_target: RainbowNetwork

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Discrete,
        lr_schedule: Schedule,
        net_arch: list[int] | None = None,
        features_extractor_class: type[BaseFeaturesExtractor] = RainbowEncoder,
        n_atoms: int = 51,
        v_min: float = -10.0,
        v_max: float = 10.0,
        dueling: bool = True,
        noisy: bool = True,
        sigma0: float = 0.1,
        shared_arch: list[int] | None = None,
        grad_scale: float = 1.0,
        head_init: str = "default",
        **kwargs: Any,
    ) -> None:
        self.rainbow_args: dict[str, Any] = dict(
            n_atoms=n_atoms,
            v_min=v_min,
            v_max=v_max,
            dueling=dueling,
            noisy=noisy,
            sigma0=sigma0,
            shared_arch=shared_arch,
            grad_scale=grad_scale,
            head_init=head_init,
        )
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            net_arch=[256] if net_arch is None else net_arch,
            features_extractor_class=features_extractor_class,
            **kwargs,
        )

    def make_q_net(self) -> RainbowNetwork:
        """A network with an encoder of its own."""
        net_args = self._update_features_extractor({**self.net_args, **self.rainbow_args}, features_extractor=None)
        return RainbowNetwork(**net_args).to(self.device)

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        optimizer_class = faster(self.optimizer_class, self.optimizer_kwargs)
        self.optimizer = optimizer_class(self.q_net.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), **self.rainbow_args}
