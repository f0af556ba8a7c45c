"""
Decoupled training: an encoder learns from stored transitions by any objective, and an SB3 agent starts from it.

On the command line, from a replay buffer that SB3 saved, from a run of crl, or from a Minari data set::

    crl pretrain buffer.pkl --objective curl --updates 10000 --out runs/pretrain/curl
    crl pretrain runs/adhoc/curl-sac/toy-reach/seed1 --objective atc
    crl pretrain minari:atari/breakout/expert-v0 --stack 4 --size 84 --objective spr

and then, frozen or fine-tuned, in any SB3 script::

    from stable_baselines3 import SAC
    from crl import FrameReplayBuffer, PixelSACPolicy
    from crl.envs import make_vec_env
    from crl.pretrain.agent import load_pretrained, pretrained_policy_kwargs

    model = SAC(PixelSACPolicy, make_vec_env("toy/reach"), buffer_size=20_000, replay_buffer_class=FrameReplayBuffer,
                policy_kwargs=pretrained_policy_kwargs("runs/pretrain/curl"))
    load_pretrained(model, "runs/pretrain/curl", frozen=True)      # frozen=False: fine-tune
    model.learn(3_000)
"""
