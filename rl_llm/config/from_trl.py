"""What settings of TRL, PEFT and open-r1 are called in a recipe; docs/from_trl.md explains them."""

FROM_TRL: dict[str, tuple[str, ...]] = {
    # The model and its adapter.
    "model_name_or_path": ("model.path",),
    "torch_dtype": ("model.dtype",),
    "bf16": ("model.dtype",),
    "r": ("lora.rank",),
    "lora_r": ("lora.rank",),
    "lora_alpha": ("lora.alpha",),
    "target_modules": ("lora.targets",),
    "lora_target_modules": ("lora.targets",),
    # Data and rewards.
    "dataset_name": ("data.train",),
    "dataset_train_split": ("data.train",),
    "dataset_test_split": ("data.eval",),
    "max_prompt_length": ("data.max_prompt_tokens",),
    "shuffle_dataset": ("curriculum.sampler",),
    "reward_funcs": ("rewards",),
    "reward_weights": ("rewards[].weight",),
    # What a step generates.
    "num_generations": ("rollout.group_size",),
    "per_device_train_batch_size": ("rollout.problems_per_step", "optim.tokens_per_micro_batch"),
    "gradient_accumulation_steps": ("rollout.problems_per_step",),
    "generation_batch_size": ("rollout.problems_per_step",),
    "steps_per_generation": ("optim.updates_per_batch",),
    "max_completion_length": ("rollout.max_new_tokens",),
    "temperature": ("rollout.temperature",),
    "use_vllm": ("rollout.engine",),
    "vllm_mode": ("rollout.engine",),
    "vllm_server_base_url": ("rollout.servers.urls",),
    "vllm_server_timeout": ("rollout.servers.max_wait_s",),
    "vllm_gpu_memory_utilization": ("rollout.vllm.memory_fraction",),
    "vllm_tensor_parallel_size": ("rollout.vllm.tensor_parallel_size",),
    "vllm_enable_sleep_mode": ("rollout.vllm.sleep",),
    "vllm_importance_sampling_correction": ("rollout.correction",),
    "vllm_importance_sampling_mode": ("rollout.correction",),
    # The update.
    "loss_type": ("algorithm.name", "algorithm.reduce"),
    "importance_sampling_level": ("algorithm.name",),
    "epsilon": ("algorithm.clip_low",),
    "epsilon_high": ("algorithm.clip_high",),
    "delta": ("algorithm.dual_clip",),
    "scale_rewards": ("algorithm.scale",),
    "multi_objective_aggregation": ("algorithm.combine",),
    "mask_truncated_completions": ("algorithm.truncated",),
    "entropy_coef": ("algorithm.entropy_bonus",),
    "num_iterations": ("optim.epochs",),
    "learning_rate": ("optim.lr",),
    "lr_scheduler_type": ("optim.schedule",),
    "warmup_steps": ("optim.warmup_steps",),
    "warmup_ratio": ("optim.warmup_steps",),
    "weight_decay": ("optim.weight_decay",),
    "max_grad_norm": ("optim.grad_clip",),
    "gradient_checkpointing": ("optim.gradient_checkpointing",),
    # The penalty.
    "beta": ("kl.controller.beta",),
    "use_bias_correction_kl": ("kl.estimator",),
    "sync_ref_model": ("kl.reference.mode",),
    "ref_model_sync_steps": ("kl.reference.refresh_every",),
    "ref_model_mixup_alpha": ("kl.reference.decay",),
    # The run.
    "max_steps": ("run.steps",),
    "run_name": ("run.name",),
    "output_dir": ("run.output_dir", "run.name"),
    "seed": ("run.seed",),
    "eval_steps": ("eval.every",),
    "num_generations_eval": ("eval.samples_per_problem",),
    "save_steps": ("checkpoint.every",),
    "save_total_limit": ("checkpoint.keep",),
    "report_to": ("tracking",),
    "push_to_hub": ("hub.repo_id",),
    "hub_model_id": ("hub.repo_id",),
    "hub_private_repo": ("hub.private",),
    "hub_strategy": ("hub.push",),
    # Without a counterpart.
    **dict.fromkeys(
        (
            *("num_train_epochs", "logging_steps", "log_completions", "resume_from_checkpoint"),
            *("top_p", "top_k", "min_p", "repetition_penalty", "generation_kwargs"),
            *("chat_template_kwargs", "lora_dropout", "attn_implementation", "load_in_4bit"),
            *("top_entropy_quantile", "off_policy_mask_threshold", "max_tool_calling_iterations"),
        ),
        (),
    ),
}
"""The keys of a recipe that say what a setting says; none where none does."""


def trl_hint(key: str) -> str | None:
    """Return the end of a message about an unknown key that TRL has; None for any other."""
    if key not in FROM_TRL:
        return None
    if keys := FROM_TRL[key]:
        return f"; {key!r}, known from TRL, is written as {' and '.join(keys)}"
    return f"; {key!r}, known from TRL, has no counterpart here; leave it out"
