"""One of several processes of four virtual devices each: `python two_processes.py DIRECTORY` fits there."""

import sys

import jax
import tiny_run

from o1jax.parallel.processes import start_processes

STEPS = 6

if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 4)
    start_processes()
    fitted = tiny_run.run(sys.argv[1], max_steps=STEPS, checkpoint_every=0)
    print("done", jax.process_index(), jax.device_count(), fitted.progress.step, flush=True)
