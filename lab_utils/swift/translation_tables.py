"""What was called otherwise in ms-swift 2.x and 3.x: flags, subcommands, models and data sets."""

TRANSFORMERS_NAME = "沿用 transformers 的命名"
FROM_3 = "3.0 起改名"
PREFIXED = "3.0 起加上推理后端的前缀"
ONE_NAME = "各种微调方法 (tuner) 共用一个参数"
COMPATIBLE = "2.x 为兼容更早版本而留的旧名，3.0 起移除"

# old name -> (new name, why)
RENAMED: dict[str, tuple[str, str]] = {
    "sft_type": ("tuner_type", "2.x 的 sft_type，3.x 叫 train_type，4.x 叫 tuner_type"),
    "train_type": ("tuner_type", "3.x 的 train_type 在 4.x 改名"),
    "model_id_or_path": ("model", FROM_3),
    "model_cache_dir": ("model", COMPATIBLE),
    "ref_model_id_or_path": ("ref_model", FROM_3),
    "reward_model_id_or_path": ("reward_model", FROM_3),
    "template_type": ("template", FROM_3),
    "quantization_bit": ("quant_bits", FROM_3),
    "bnb_4bit_comp_dtype": ("bnb_4bit_compute_dtype", FROM_3),
    "dtype": ("torch_dtype", "3.0 起改名，取值用全称：bfloat16、float16、float32"),
    "batch_size": ("per_device_train_batch_size", TRANSFORMERS_NAME),
    "eval_batch_size": ("per_device_eval_batch_size", TRANSFORMERS_NAME),
    "evaluation_strategy": ("eval_strategy", TRANSFORMERS_NAME),
    "neftune_alpha": ("neftune_noise_alpha", TRANSFORMERS_NAME),
    "use_liger": ("use_liger_kernel", TRANSFORMERS_NAME),
    "push_hub_strategy": ("hub_strategy", TRANSFORMERS_NAME),
    "only_save_model": ("save_only_model", TRANSFORMERS_NAME),
    "save_safetensors": ("safe_serialization", "4.x 改名"),
    "loss_name": ("loss_type", FROM_3),
    "use_flash_attn": ("attn_impl", "3.0 起用 attn_impl 指定注意力实现"),
    "check_model_is_latest": ("check_model", FROM_3),
    "add_output_dir_suffix": ("add_version", FROM_3),
    "preprocess_num_proc": ("dataset_num_proc", FROM_3),
    "dataset_test_ratio": ("split_dataset_ratio", FROM_3),
    "dataset_seed": ("data_seed", FROM_3),
    "streaming_buffer_size": ("shuffle_buffer_size", FROM_3),
    "custom_train_dataset_path": ("dataset", "本地文件与数据集 id 统一由 dataset 指定"),
    "custom_val_dataset_path": ("val_dataset", "本地文件与数据集 id 统一由 val_dataset 指定"),
    "load_dataset_config": ("load_data_args", FROM_3),
    "load_args_from_ckpt_dir": ("load_args", FROM_3),
    "ckpt_dir": ("adapters", "3.0 起用 adapters 指定 LoRA 检查点；全参数训练的检查点请改用 --model"),
    "lora_modules": ("adapters", "3.0 起统一由 adapters 指定"),
    "vllm_lora_modules": ("adapters", "3.0 起统一由 adapters 指定"),
    "merge_lora_and_save": ("merge_lora", COMPATIBLE),
    "result_dir": ("result_path", "3.0 起指定结果文件 (jsonl)，不再指定文件夹"),
    "deepspeed_config_path": ("deepspeed", COMPATIBLE),
    "device_map_config": ("device_map", FROM_3),
    "device_map_config_path": ("device_map", COMPATIBLE),
    "device_max_memory": ("max_memory", FROM_3),
    "quant_device_map": ("device_map", FROM_3),
    "merge_device_map": ("device_map", FROM_3),
    "quant_output_dir": ("output_dir", "3.0 起导出结果统一写到 output_dir"),
    "ollama_output_dir": ("output_dir", "3.0 起导出结果统一写到 output_dir"),
    "eval_token": ("api_key", FROM_3),
    "eval_nproc": ("eval_num_proc", FROM_3),
    "tools_prompt": ("agent_template", "3.x 的 tools_prompt 后来改名 agent_template"),
    "lora_dropout_p": ("lora_dropout", COMPATIBLE),
    "lora_lr_ratio": ("lorap_lr_ratio", FROM_3),
    "lora_bias_trainable": ("lora_bias", FROM_3),
    "init_lora_weights": ("init_weights", ONE_NAME),
    "lora_target_regex": ("target_regex", ONE_NAME),
    "additional_trainable_parameters": ("trainable_parameters", FROM_3),
    **{f"{tuner}_target_modules": ("target_modules", ONE_NAME) for tuner in ("lora", "boft", "ia3", "vera")},
    **{f"{tuner}_modules_to_save": ("modules_to_save", ONE_NAME) for tuner in ("lora", "boft", "ia3", "vera")},
    **{
        name: (f"vllm_{name}", PREFIXED)
        for name in (
            "tensor_parallel_size", "gpu_memory_utilization", "max_num_seqs", "enforce_eager",
            "limit_mm_per_prompt", "disable_custom_all_reduce",
        )
    },
    **{
        name: (f"lmdeploy_{name}", PREFIXED)
        for name in ("tp", "cache_max_entry_count", "quant_policy", "vision_batch_size")
    },
}  # fmt: skip

# old name -> why it is gone
REMOVED: dict[str, str] = {
    "check_dataset_strategy": "3.0 起移除：数据由 strict 参数控制，默认丢弃坏行；本课程在训练前逐行检查",
    "test_oom_error": "3.0 起移除",
    "show_dataset_sample": "3.0 起移除：训练开始时总会打印一条样本",
    "eval_human": "3.0 起移除：不给 val_dataset 就是人机对话",
    "save_result": "3.0 起移除：结果总会保存到 result_path",
    "train_dataset_mix_ratio": "3.0 起移除：在 dataset 里列出要混合的数据集，用 #条数 控制比例",
    "train_dataset_mix_ds": "3.0 起移除：在 dataset 里列出要混合的数据集，用 #条数 控制比例",
    "neftune_backend": "3.0 起移除：只用 transformers 的实现",
    "train_backend": "3.0 起移除：Megatron 改用 megatron sft 命令",
    "overwrite_generation_config": "3.0 起移除",
    "min_lr": "3.0 起移除：改用 --lr_scheduler_type cosine_with_min_lr 与 --lr_scheduler_kwargs",
    "use_loss_scale": "3.0 起移除：改用 --loss_scale 指定名称",
    "name": "3.0 起移除",
    "fsdp_num": "3.0 起移除",
    "model_layer_cls_name": "3.0 起移除",
    "metric_warmup_step": "3.0 起移除",
}

DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}

# model_type of 2.x -> model id on ModelScope
MODEL_IDS = {
    "chatglm2-6b": "ZhipuAI/chatglm2-6b",
    "chatglm3-6b": "ZhipuAI/chatglm3-6b",
    "chatglm3-6b-base": "ZhipuAI/chatglm3-6b-base",
    "chatglm3-6b-32k": "ZhipuAI/chatglm3-6b-32k",
    "glm4-9b": "ZhipuAI/glm-4-9b",
    "glm4-9b-chat": "ZhipuAI/glm-4-9b-chat",
    "baichuan2-7b": "baichuan-inc/Baichuan2-7B-Base",
    "baichuan2-7b-chat": "baichuan-inc/Baichuan2-7B-Chat",
    "baichuan2-13b-chat": "baichuan-inc/Baichuan2-13B-Chat",
    "qwen-1_8b-chat": "Qwen/Qwen-1_8B-Chat",
    "qwen-7b": "Qwen/Qwen-7B",
    "qwen-7b-chat": "Qwen/Qwen-7B-Chat",
    "qwen-14b-chat": "Qwen/Qwen-14B-Chat",
    **{f"qwen1half-{s.lower().replace('.', '_')}-chat": f"Qwen/Qwen1.5-{s}-Chat" for s in ("0.5B", "1.8B", "4B", "7B", "14B")},
    **{f"qwen2-{s.lower().replace('.', '_')}": f"Qwen/Qwen2-{s}" for s in ("0.5B", "1.5B", "7B")},
    **{f"qwen2-{s.lower().replace('.', '_')}-instruct": f"Qwen/Qwen2-{s}-Instruct" for s in ("0.5B", "1.5B", "7B")},
    **{f"qwen2_5-{s.lower().replace('.', '_')}": f"Qwen/Qwen2.5-{s}" for s in ("0.5B", "1.5B", "3B", "7B", "14B")},
    **{f"qwen2_5-{s.lower().replace('.', '_')}-instruct": f"Qwen/Qwen2.5-{s}-Instruct" for s in ("0.5B", "1.5B", "3B", "7B", "14B")},
    "llama3-8b": "LLM-Research/Meta-Llama-3-8B",
    "llama3-8b-instruct": "LLM-Research/Meta-Llama-3-8B-Instruct",
    "llama3_1-8b-instruct": "LLM-Research/Meta-Llama-3.1-8B-Instruct",
    "llama3_2-1b-instruct": "LLM-Research/Llama-3.2-1B-Instruct",
    "llama3_2-3b-instruct": "LLM-Research/Llama-3.2-3B-Instruct",
    "internlm2-7b-chat": "Shanghai_AI_Laboratory/internlm2-chat-7b",
    "internlm2_5-7b-chat": "Shanghai_AI_Laboratory/internlm2_5-7b-chat",
    "mistral-7b-instruct-v2": "AI-ModelScope/Mistral-7B-Instruct-v0.2",
    "yi-6b-chat": "01ai/Yi-6B-Chat",
    "gemma2-2b-instruct": "LLM-Research/gemma-2-2b-it",
}  # fmt: skip

# data set name of 2.x -> id on ModelScope (with subset and count)
DATASET_IDS = {
    "medical-zh": "swift/medical_zh:zh",
    "medical-en": "swift/medical_zh:en",
    "medical-mini-zh": "swift/medical_zh:zh#50000",
    "disc-med-sft-zh": "AI-ModelScope/DISC-Med-SFT",
    "disc-law-sft-zh": "AI-ModelScope/DISC-Law-SFT",
    "alpaca-zh": "AI-ModelScope/alpaca-gpt4-data-zh",
    "alpaca-en": "AI-ModelScope/alpaca-gpt4-data-en",
    "ms-bench": "iic/ms_bench",
    "ms-bench-mini": "iic/ms_bench#20000",
    "self-cognition": "swift/self-cognition",
    "poetry-zh": "modelscope/chinese-poetry-collection",
    "advertise-gen-zh": "lvjianjin/AdvertiseGen",
    "firefly-zh": "AI-ModelScope/firefly-train-1.1M",
    "blossom-math-zh": "AI-ModelScope/blossom-math-v2",
    "ruozhiba": "AI-ModelScope/ruozhiba",
    "hh-rlhf-cn": "AI-ModelScope/hh_rlhf_cn",
    "classical-chinese-translate": "swift/classical_chinese_translate",
}

OLD_SUBCOMMANDS = {
    "merge-lora": ("export", [("merge_lora", ["true"])], "合并 LoRA 是 swift export 的一个选项"),
    "app-ui": ("app", [], "3.0 起改名"),
    **{
        kind: ("rlhf", [("rlhf_type", [kind])], "偏好对齐统一为 swift rlhf，用 rlhf_type 选算法")
        for kind in ("dpo", "orpo", "simpo", "kto", "cpo")
    },
}
OLD_SCRIPTS = {"llm_sft.py": "sft", "llm_infer.py": "infer", "llm_export.py": "export", "llm_dpo.py": "dpo"}
