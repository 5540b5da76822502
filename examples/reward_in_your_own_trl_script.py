"""Use this project's reward in a plain TRL script: `pip install .`, then run this file from anywhere.

Local folders work in place of the hub names: --policy, --comet_da, --comet_qe, --nllb.
"""

import argparse

import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from rewards_en_ta_dupo import CometDuPOReward
from rl_nmt.models import repair_gemma3

SENTENCES = ["The boy reads a book.", "Where is the school?", "The farmer sells rice at the market.", "Thank you."]

flags = argparse.ArgumentParser(description=__doc__)
flags.add_argument("--policy", default="google/gemma-3-1b-it")
flags.add_argument("--comet_da", default="Unbabel/wmt22-comet-da")
flags.add_argument("--comet_qe", default="Unbabel/wmt22-cometkiwi-da")
flags.add_argument("--nllb", default="facebook/nllb-200-distilled-1.3B")
flags.add_argument("--output_dir", default="runs/own_script")
flags.add_argument("--max_steps", type=int, default=20)
own = flags.parse_args()

repair_gemma3()  # TRL 1.16 cannot train Gemma 3 under transformers 4 without it
reward = CometDuPOReward(own.comet_da, own.comet_qe, own.nllb)  # keywords as in RewardSettings, e.g. w_qe=0.5
ask = "Translate from English into Tamil. Answer with the Tamil text only, without any explanation.\n\nEnglish: "
rows = [{"prompt": [{"role": "user", "content": f"{ask}{text}\nTamil:"}], "source": text} for text in SENTENCES]
sizes = {"num_generations": 4, "per_device_train_batch_size": 8, "max_completion_length": 128}
bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
args = GRPOConfig(own.output_dir, max_steps=own.max_steps, **sizes, bf16=bf16, report_to="none")
trainer = GRPOTrainer(own.policy, reward, args, Dataset.from_list(rows))  # the reward reads the column "source"
trainer.train()
print({name: value for name, value in reward.last_log.items() if name.startswith("reward/")})
