"""Behaviours of the comparison, each broken once; see `mutants.py`."""

from __future__ import annotations

from mutation import Mutation

SUMMARY = "tests/comparison/verdicts/test_summary.py"
FALSE_WINNERS = "tests/comparison/verdicts/test_false_winners.py"
SEQUENTIAL = "tests/comparison/verdicts/test_sequential.py"
TASKS = "tests/comparison/tasks/test_tasks.py"
STRATEGIES = "tests/comparison/contestants/test_strategies.py"
CHOICES = "tests/comparison/training/test_choices.py"
STEPPING = "tests/comparison/training/test_stepping.py"
STREAMS = "tests/comparison/data/test_task_data.py"
GROUPS = "tests/comparison/data/test_batches_by.py"
OWN = "tests/comparison/experiments/test_own_training.py"
TOGETHER = "tests/comparison/experiments/test_together.py"
STORAGE = "tests/comparison/test_storage.py"

MUTATIONS = [
    Mutation(
        "an effect of the seed that all share is no spread",
        "comparison/verdicts/spread.py",
        "values - values.mean(1, keepdims=True) - values.mean(0, keepdims=True) + values.mean()",
        "values - values.mean(1, keepdims=True)",
        SUMMARY,
    ),
    Mutation(
        "the spread of a pair is the largest of three estimates",
        "comparison/verdicts/spread.py",
        "return max(self.table, mean_square([block]), mean_square(pairs))",
        "return self.table",
        SUMMARY + " " + FALSE_WINNERS,
    ),
    Mutation(
        "the threshold corrects for the number of batch sizes",
        "comparison/verdicts/chance.py",
        "_range_distribution(size)) ** count",
        "_range_distribution(size))",
        FALSE_WINNERS,
    ),
    Mutation(
        "a lead below the resolution of the held-out samples is none",
        "comparison/verdicts/judging.py",
        "None if need is None else max(need, floor)",
        "need",
        SUMMARY,
    ),
    Mutation(
        "a normalizer whose runs disagree does not lead",
        "comparison/verdicts/judging.py",
        "leader = next((norm for norm in ranked if norm in reliable), None)",
        "leader = next((norm for norm in ranked), None)",
        SUMMARY,
    ),
    Mutation(
        "one failed run counts beside many good ones",
        "comparison/verdicts/judging.py",
        " or np.median(values) - values.min() > limit)",
        ")",
        SUMMARY,
    ),
    Mutation(
        "a seed that is hard for all makes no normalizer unreliable",
        "comparison/verdicts/judging.py",
        "block.values[own] - np.median(others, axis=0)",
        "block.values[own]",
        SUMMARY,
    ),
    Mutation(
        "one that is no better than chance does not lead",
        "comparison/verdicts/judging.py",
        "if leader is None or not learned:",
        "if leader is None:",
        SUMMARY,
    ),
    Mutation(
        "a lucky run does not lift a mean above chance",
        "comparison/verdicts/judging.py",
        "_is_above_chance(cells[leader], scores[leader])",
        "_is_above_chance(cells[leader], cells[leader].best)",
        SUMMARY,
    ),
    Mutation(
        "the error rate is shared out over the looks",
        "comparison/verdicts/sequential.py",
        "return 1 - (1 - LEVEL) / max(1, looks)",
        "return LEVEL",
        SEQUENTIAL,
    ),
    Mutation(
        "a look waits for all that go on",
        "comparison/verdicts/sequential.py",
        "if any((*place, seeds[count - 1]) not in done for place in going_on):",
        "if False:",
        SEQUENTIAL,
    ),
    Mutation(
        "who was stopped is behind",
        "comparison/verdicts/sequential.py",
        "sorted({*verdict.behind, *stopped}",
        "sorted({*verdict.behind}",
        SEQUENTIAL,
    ),
    Mutation(
        "a batch size that is decided is stopped",
        "comparison/verdicts/sequential.py",
        "if verdict.clear:",
        "if False:",
        SEQUENTIAL,
    ),
    Mutation(
        "Dice counts what both have twice",
        "comparison/tasks/classes.py",
        "(2 * both / either).mean()",
        "(both / either).mean()",
        TASKS,
    ),
    Mutation(
        "what both have is in the union once",
        "comparison/tasks/classes.py",
        "(both / (either - both)).mean()",
        "(both / either).mean()",
        TASKS,
    ),
    Mutation(
        "an answer where no target counts is none",
        "comparison/tasks/classes.py",
        "torch.where(counted, answers, classes), torch.where(counted, y, classes)]",
        "answers, torch.where(counted, y, classes)]",
        TASKS,
    ),
    Mutation(
        "F1 is the mean of the classes' Dice",
        "comparison/tasks/labelling.py",
        "overlaps(total[:-2], classes)[0]",
        "overlaps(total[:-2], classes)[1]",
        TASKS,
    ),
    Mutation(
        "perplexity is the exponential of nats",
        "comparison/tasks/language.py",
        "math.exp(loss) if loss < 700",
        "2**loss if loss < 700",
        TASKS,
    ),
    Mutation(
        "frozen statistics stay",
        "comparison/contestants/strategies.py",
        "        freeze(model)\n",
        "        pass\n",
        STRATEGIES,
    ),
    Mutation(
        "recalibrated statistics are computed anew",
        "comparison/contestants/strategies.py",
        "recalibrate(self.model, loader, forward)",
        "list(loader)",
        STRATEGIES,
    ),
    Mutation(
        "a swapped-in normalizer begins with the statistics",
        "comparison/contestants/strategies.py",
        '"data-free" if strategy.method == SWAP',
        '"copy" if strategy.method == SWAP',
        STRATEGIES,
    ),
    Mutation(
        "an annealed normalizer stands alone after two thirds",
        "comparison/contestants/strategies.py",
        "max(share, _BEGUN) / ANNEALED_AT",
        "max(share, _BEGUN)",
        STRATEGIES,
    ),
    Mutation(
        "fresh statistics are nothing to go on from",
        "comparison/contestants/strategies.py",
        "if strategy.needs_statistics and not has_trained_statistics(model):",
        "if False:",
        STRATEGIES,
    ),
    Mutation(
        "a schedule scales the rate of each group",
        "comparison/training/choices.py",
        'group["lr"] = share * peak',
        'group["lr"] = share',
        CHOICES,
    ),
    Mutation(
        "a user's optimizer gets the rate as given",
        "comparison/settings.py",
        "if self.optimizer not in OPTIMIZERS:",
        "if False:",
        CHOICES,
    ),
    Mutation(
        "augmentation is the same for every normalizer",
        "comparison/training/trainer.py",
        "with random_numbers_kept({torch.device(self.device)}, self.run.seed * 1_000_003 + self.done):",
        "with suppress(ValueError):",
        CHOICES,
    ),
    Mutation(
        "all parameters count their steps",
        "comparison/training/stepping.py",
        "            steps.add_(1)\n",
        "",
        STEPPING,
    ),
    Mutation(
        "what was kept of an optimizer's state does not outlive it",
        "comparison/training/stepping.py",
        "        super().load_state_dict(state_dict)\n        self._held = None\n",
        "        super().load_state_dict(state_dict)\n",
        STEPPING,
    ),
    Mutation(
        "a stream that is shorter than its stated length is an error",
        "comparison/data/streams.py",
        "if seen < (most * size if drop_last else self.samples):",
        "if False:",
        STREAMS,
    ),
    Mutation(
        "each epoch of a stream has an order of its own",
        "comparison/data/streams.py",
        "order=seed * 1_000_003 + epoch",
        "order=seed",
        STREAMS,
    ),
    Mutation(
        "a loader's sampler is kept",
        "comparison/data/streams.py",
        'options["sampler"] = self.sampler',
        'options["shuffle"] = True',
        STREAMS,
    ),
    Mutation(
        "a gathered batch has the group of its samples",
        "comparison/data/in_memory.py",
        "groups[index[::size]].tolist()",
        "groups[index].tolist()",
        GROUPS,
    ),
    Mutation(
        "a function that exits has failed",
        "comparison/experiments/own_training.py",
        "except (Exception, SystemExit) as error:",
        "except Exception as error:",
        OWN,
    ),
    Mutation(
        "a failure of any process is the run's",
        "comparison/experiments/together.py",
        "        if failed:\n",
        '        if outcomes[0]["status"] == "failed":\n',
        TOGETHER,
    ),
    Mutation(
        "a result of one process's part is none",
        "comparison/experiments/together.py",
        "        if apart is None:\n",
        "        if True:\n",
        TOGETHER,
    ),
    Mutation(
        "a full disk is said in words",
        "comparison/storage.py",
        "with self._in_words(), (self.folder",
        "with (self.folder",
        STORAGE,
    ),
]
