"""
Policies with one pixel encoder whose gradient route is named.

SB3's SAC and TD3 give actor and critic separate encoders by default, and with ``share_features_extractor=True`` the actor
loss alone trains the shared one. CURL, DrQ and their kin do the reverse: the critic's loss moves the encoder, the actor looks
at its convolutions through a head of its own, without gradient. These policies do that under SB3's unmodified ``train()``.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Literal

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.sac.policies import Actor as SACActor
from stable_baselines3.sac.policies import SACPolicy
from stable_baselines3.td3.policies import Actor as TD3Actor
from stable_baselines3.td3.policies import TD3Policy
from torch import nn

from crl.encoders import BodyHeadEncoder, PixelEncoder
from crl.networks import faster, speed_up_linear

EncoderGradient = Literal["critic", "actor", "objective"]
ROUTES = ("critic", "actor", "objective")


class OnSharedBody:
    """
    Makes an SB3 actor (or target critic) look at the critic's conv body through its own head, which is its
    ``features_extractor``.

    The body is no sub-module: the optimiser, state dict and EMA of its guests must not hold the critic's convolutions.
    """

    observation_space: spaces.Space
    normalize_images: bool
    _shared: tuple[BodyHeadEncoder]
    _moves_body: bool

    def share_body(self, encoder: BodyHeadEncoder, moves_body: bool) -> None:
        """
        :param encoder: owner of the body
        :param moves_body: whether the guest's loss may reach it
        """
        self._shared = (encoder,)
        self._moves_body = moves_body

    def extract_features(self, obs: PyTorchObs, features_extractor: BaseFeaturesExtractor) -> th.Tensor:
        """See SB3; ``(batch, features_dim)`` of the own head."""
        images = preprocess_obs(obs, self.observation_space, normalize_images=self.normalize_images)
        assert isinstance(images, th.Tensor)
        with th.set_grad_enabled(th.is_grad_enabled() and self._moves_body):
            feature_map = self._shared[0].forward_body(images)
        return features_extractor(feature_map)


class PixelSACActor(OnSharedBody, SACActor):
    """SB3's SAC actor on the critic's conv body."""


class PixelTD3Actor(OnSharedBody, TD3Actor):
    """SB3's TD3 actor on the critic's conv body."""


class OwnsBody:
    """
    Makes a critic the owner of the shared encoder.

    :param moves_body: whether the critic's loss may reach the encoder's convolutions. Its own head learns in any case.
    """

    features_extractor: Any
    observation_space: spaces.Space
    normalize_images: bool
    moves_body: bool

    def __init__(self, *args: Any, moves_body: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.moves_body = moves_body

    def features_and_actions(self, obs: PyTorchObs, actions: th.Tensor) -> th.Tensor:
        """``(batch, features_dim + action_dim)``, with the graph that the pass is to have."""
        # An action with a graph comes from the actor: this pass serves the actor's loss, which wants dQ/da alone. Leaving
        # the encoder out of it saves a backward pass through the convolutions whose result SB3 throws away.
        learns = th.is_grad_enabled() and not actions.requires_grad
        images = preprocess_obs(obs, self.observation_space, normalize_images=self.normalize_images)
        assert isinstance(images, th.Tensor)
        with th.set_grad_enabled(learns and self.moves_body):
            feature_map = self.features_extractor.forward_body(images)
        with th.set_grad_enabled(learns):
            features = self.features_extractor.forward_head(feature_map)
        return th.cat([features, actions], dim=1)


class PixelCritic(OwnsBody, ContinuousCritic):
    """SB3's Q networks on the shared encoder."""

    features_extractor: BodyHeadEncoder

    def forward(self, obs: th.Tensor, actions: th.Tensor) -> tuple[th.Tensor, ...]:
        """Q values, ``(batch, 1)`` each."""
        q_input = self.features_and_actions(obs, actions)
        return tuple(q_net(q_input) for q_net in self.q_networks)


def check_one_encoder(
    name: str, space: spaces.Space, encoder_gradient: str, extractor_class: type[Any], kwargs: dict[str, Any]
) -> None:
    """
    What policies with one encoder are asked for.

    :param name: of the policy, for messages
    :param space: of the observations
    :param encoder_gradient: the route
    :param extractor_class: of the encoder
    :param kwargs: further arguments of the policy; SB3's switch for sharing is taken out
    :raises ValueError: says what does not fit
    """
    if isinstance(space, spaces.Dict):
        raise ValueError(
            f"{name} sees one image and nothing else, the observations are a Dict of {list(space.spaces)}: use "
            "'MultiInputPolicy' (AuxiliaryLossCallback finds the encoder of its image key)"
        )
    if encoder_gradient not in ROUTES:
        raise ValueError(f"{name}(encoder_gradient={encoder_gradient!r}): choose 'critic', 'actor' or 'objective'")
    if not (isinstance(extractor_class, type) and issubclass(extractor_class, BodyHeadEncoder)):
        raise ValueError(
            f"{name} shares a conv body between actor and critic, so its features_extractor_class must be an encoder of crl "
            f"(PixelEncoder, NatureEncoder, RainbowEncoder, ImpalaEncoder or a subclass), not {extractor_class!r}"
        )
    if kwargs.pop("share_features_extractor", None) is not None:
        raise ValueError(
            f"{name} always shares its encoder; say who moves it by encoder_gradient='critic' | 'actor' | 'objective'"
        )


class OneEncoder:
    """
    What PixelSACPolicy, PixelTD3Policy and PixelTQCPolicy share: the critic owns the one encoder, and its convolutions have
    one owner among the optimisers.
    """

    actor: Any
    critic: Any
    critic_kwargs: dict[str, Any]
    optimizer_class: type[th.optim.Optimizer]
    optimizer_kwargs: dict[str, Any]
    #: how messages call it, and its subclasses
    _name: str
    _critic_class: type[OwnsBody] = PixelCritic
    _encoder_gradient: EncoderGradient

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        lr_schedule: Schedule,
        encoder_gradient: EncoderGradient = "critic",
        features_extractor_class: type[BaseFeaturesExtractor] = PixelEncoder,
        **kwargs: Any,
    ) -> None:
        check_one_encoder(self._name, observation_space, encoder_gradient, features_extractor_class, kwargs)
        self._encoder_gradient = encoder_gradient
        super().__init__(  # type: ignore[call-arg]
            observation_space, action_space, lr_schedule, features_extractor_class=features_extractor_class, **kwargs
        )

    @property
    def encoder_gradient(self) -> EncoderGradient:
        """Whose gradient moves the conv body; fixed at construction."""
        return self._encoder_gradient

    @property
    def encoder(self) -> BodyHeadEncoder:
        """The one encoder."""
        encoder: BodyHeadEncoder = self.critic.features_extractor
        return encoder

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> Any:
        """A critic with a new encoder."""
        kwargs = self._update_features_extractor(self.critic_kwargs, features_extractor)  # type: ignore[attr-defined]
        critic = self._critic_class(**kwargs, moves_body=self._encoder_gradient == "critic")
        return critic.to(self.device)  # type: ignore[attr-defined]

    def _make_optimizers(self, learning_rate: float) -> None:
        """One for the actor, one for the critic; the conv body belongs to whoever moves it. Ends the building."""
        parameters = split_parameters(self.actor, self.critic, self._encoder_gradient)
        for network, own in zip((self.actor, self.critic), parameters, strict=True):
            optimizer_class = faster(self.optimizer_class, self.optimizer_kwargs)
            network.optimizer = optimizer_class(own, lr=learning_rate, **self.optimizer_kwargs)
        speed_up_linear(self)  # type: ignore[arg-type]

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data: dict[str, Any] = super()._get_constructor_parameters()  # type: ignore[misc]
        # TD3Policy writes down whether it shares; here that is no option, and load() passes on what stands here
        data.pop("share_features_extractor", None)
        return {**data, "encoder_gradient": self._encoder_gradient}


class OneEncoderOneActor(OneEncoder):
    """What PixelSACPolicy and PixelTQCPolicy share: there is no target actor."""

    actor_kwargs: dict[str, Any]
    critic_target: Any
    _actor_class: type[Any]

    def _build(self, lr_schedule: Schedule) -> None:
        self.critic = self.make_critic()
        self.critic_target = self.make_critic()
        self.critic_target.load_state_dict(self.critic.state_dict())
        self.actor = self.make_actor()
        self._make_optimizers(lr_schedule(1))
        self.critic_target.set_training_mode(False)

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> Any:
        """An actor with a new head on the critic's body."""
        kwargs = self._update_features_extractor(self.actor_kwargs, self.encoder.make_head())  # type: ignore[attr-defined]
        actor = self._actor_class(**kwargs)
        actor.share_body(self.encoder, self._encoder_gradient == "actor")
        return actor.to(self.device)  # type: ignore[attr-defined]


class PixelSACPolicy(OneEncoderOneActor, SACPolicy):
    """
    SAC policy with one pixel encoder (conv body and head) inside the critic; the actor has its own head on the body.

    :param observation_space: channels-first image space
    :param action_space: Box
    :param lr_schedule: learning rate
    :param encoder_gradient: whose gradient moves the conv body. ``"critic"``: the critic's loss (CURL, DrQ, SAC-AE).
        ``"actor"``: the actor's loss (what SB3 does with a shared extractor). ``"objective"``: neither, an attached objective
        alone (and without one the body stays as it was initialised). Heads always learn from their own loss.
    :param features_extractor_class: an encoder of crl
    :param kwargs: as SB3's ``SACPolicy``
    :raises ValueError: for an unknown route, or an extractor that is not split into body and head
    """

    _name = "PixelSACPolicy"
    _actor_class = PixelSACActor


class PixelTD3Policy(OneEncoder, TD3Policy):
    """
    TD3 (and DDPG) policy with one pixel encoder inside the critic; the actor has its own head on its conv body, the target
    actor one on the target critic's.

    :param observation_space: channels-first image space
    :param action_space: Box
    :param lr_schedule: learning rate
    :param encoder_gradient: see :class:`PixelSACPolicy`
    :param features_extractor_class: an encoder of crl
    :param kwargs: as SB3's ``TD3Policy``
    :raises ValueError: for an unknown route, or an extractor that is not split into body and head
    """

    _name = "PixelTD3Policy"

    def _build(self, lr_schedule: Schedule) -> None:
        self.critic = self.make_critic()
        self.critic_target = self.make_critic()
        self.critic_target.load_state_dict(self.critic.state_dict())
        self.actor = self._actor_on(self.critic)
        self.actor_target = self._actor_on(self.critic_target)
        self.actor_target.load_state_dict(self.actor.state_dict())
        self._make_optimizers(lr_schedule(1))
        self.actor_target.set_training_mode(False)
        self.critic_target.set_training_mode(False)

    def _actor_on(self, critic: ContinuousCritic) -> TD3Actor:
        encoder = critic.features_extractor
        assert isinstance(encoder, BodyHeadEncoder)
        kwargs = self._update_features_extractor(self.actor_kwargs, encoder.make_head())  # type: ignore[arg-type]
        actor = PixelTD3Actor(**kwargs)
        actor.share_body(encoder, self._encoder_gradient == "actor")
        return actor.to(self.device)


def split_parameters(
    actor: nn.Module, critic: nn.Module, encoder_gradient: EncoderGradient
) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """
    :param actor: with its own head
    :param critic: with the encoder
    :param encoder_gradient: who owns the conv body; with ``"objective"`` the critic's optimiser does, where it gets no
        gradient (and is skipped) unless an objective adds one
    :return: parameters of the actor's and of the critic's optimiser; together each parameter once
    """
    encoder = critic.features_extractor
    assert isinstance(encoder, BodyHeadEncoder)
    body = list(encoder.body.parameters())
    in_body = {id(parameter) for parameter in body}
    rest = [parameter for parameter in critic.parameters() if id(parameter) not in in_body]
    if encoder_gradient == "actor":
        return [*actor.parameters(), *body], rest
    return list(actor.parameters()), list(critic.parameters())


def __getattr__(name: str) -> Any:
    # sb3-contrib, whose TQC it is for, is optional
    if name == "PixelTQCPolicy":
        return import_module("crl.tqc_policy").PixelTQCPolicy
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
