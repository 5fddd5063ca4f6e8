"""Behaviours of the tools for trained models, each broken once; see `mutants.py`."""

from __future__ import annotations

from mutation import Mutation

FOLD = "tests/surgery/test_fold.py -m 'not slow'"
REFUSALS = "tests/surgery/test_fold_refusals.py"
REPLACING = "tests/surgery/test_replacing.py"
FREE = "tests/surgery/test_normalizer_free.py -m 'not slow'"
DOCTOR = "tests/surgery/test_doctor.py"

MUTATIONS = [
    Mutation(
        "a padding in front undoes the shift",
        "surgery/folding/layers.py",
        "(before - shift) / scale",
        "(before + shift) / scale",
        FOLD,
    ),
    Mutation(
        "the shift in front reaches the bias",
        "surgery/folding/layers.py",
        "with_shift(layer, tensors, shift), pads",
        "tensors.bias, pads",
        FOLD,
    ),
    Mutation(
        "a constant channel in front of zero padding is refused",
        "surgery/folding/layers.py",
        "((scale == 0) & (shift != before)).any()",
        "((scale == 0) & (shift != shift)).any()",
        FOLD,
    ),
    Mutation(
        "a signal that is kept after the run has another reader",
        "surgery/folding/observation.py",
        "    observer.note_kept_signals()",
        "    ...",
        REFUSALS,
    ),
    Mutation(
        "parameters that something else reads stay",
        "surgery/folding/observation.py",
        "self.found.readers[owner].append(reader)",
        "pass",
        REFUSALS,
    ),
    Mutation(
        "hooks between the folded layers see the signal",
        "surgery/folding/observation.py",
        "if signal is not None and hooked:",
        "if False and signal is not None:",
        REFUSALS,
    ),
    Mutation(
        "a module that only passes a signal on does not count as a reader",
        "surgery/folding/observation.py",
        "and output is tensor:",
        "and output is None:",
        FOLD,
    ),
    Mutation(
        "channels are compared by dimension",
        "surgery/folding/plan.py",
        "if axis != norms.channel_axis(call.module, len(shape)):",
        "if axis < 0:",
        "tests/surgery/test_fold_peers.py " + REFUSALS,
    ),
    Mutation(
        "tied parameters stay",
        "surgery/folding/plan.py",
        "if count > 1}",
        "if count > 9}",
        REFUSALS,
    ),
    Mutation(
        "a change is undone if the model's outputs change",
        "surgery/folding/verification.py",
        "if away > allowed and",
        "if False and",
        REFUSALS,
    ),
    Mutation(
        "baked weights are in memory of their own",
        "weights/baking.py",
        "change.move(tensor, value)",
        "tensor.copy_(value)",
        "tests/weights/test_bake.py",
    ),
    Mutation(
        "a parameter of another model is not changed",
        "weights/baking.py",
        "if id(tensor) in elsewhere:",
        "if False:",
        "tests/weights/test_bake.py",
    ),
    Mutation(
        "an exception undoes a change",
        "core/model_change.py",
        "        if kind is not None:\n            self.roll_back()",
        "        return",
        REPLACING,
    ),
    Mutation(
        "undo rejects a model that was changed since",
        "core/model_change.py",
        "if held is not new or place.holder not in reachable:",
        "if place.holder not in reachable:",
        REPLACING,
    ),
    Mutation(
        "hooks move to the new layer in the same dict",
        "core/inheritance.py",
        "setattr(new, name, theirs)",
        "setattr(new, name, type(theirs)(theirs))",
        REPLACING,
    ),
    Mutation(
        "the nearest layer determines the rank",
        "surgery/unsync.py",
        "for m in order[:index][::-1] if",
        "for m in order[:index] if",
        "tests/surgery/test_unsync.py",
    ),
    Mutation(
        "a branch is scaled by its own deviation",
        "surgery/unnormalized/sizing.py",
        "alpha = self._alpha * _for_unit(x.variance)",
        "alpha = self._alpha",
        FREE,
    ),
    Mutation(
        "the contribution of the weights' mean goes into the bias",
        "surgery/unnormalized/sizing.py",
        "lost if was is None else lost + was.shift",
        "0.0 if was is None else was.shift",
        FREE,
    ),
    Mutation(
        "a normalizer whose input has another reader leaves a scale",
        "surgery/unnormalized/plan.py",
        "return once and len(source.users) == 1 and",
        "return once and",
        FREE,
    ),
    Mutation(
        "doctor does not repeat the diagnosis",
        "surgery/examination/process_rules.py",
        'or "small batch" in subject.diagnosed',
        "or False",
        DOCTOR,
    ),
    Mutation(
        "written values are restored",
        "core/model_change.py",
        "                written.tensor.copy_(written.old)",
        "                pass",
        REPLACING + " tests/surgery/test_recalibrate_model_kept.py",
    ),
    Mutation(
        "a change is undone once",
        "core/model_change.py",
        "if self._undone:",
        "if False:",
        REPLACING + " tests/surgery/test_swap.py",
    ),
    Mutation(
        "a converted model with other outputs is reported as one to train",
        "cli/conversions.py",
        "drift is not None and drift < ROUNDING",
        "True",
        "tests/surgery/test_convert_cli_data.py",
    ),
    Mutation(
        "a command converts the model in evaluation mode",
        "cli/given_model.py",
        "    return net.eval()",
        "    return net",
        "tests/surgery/test_convert_cli.py tests/surgery/test_convert_cli_data.py",
    ),
    Mutation(
        "a foreign deviation is the divisor without epsilon",
        "surgery/foreign_values.py",
        "values.square() - eps",
        "values.square()",
        "tests/surgery/test_foreign.py",
    ),
    Mutation(
        "a foreign momentum of the old value is converted to PyTorch's",
        "surgery/foreign_values.py",
        "if self._source.counts_old else momentum",
        "if False else momentum",
        "tests/surgery/test_foreign.py",
    ),
    Mutation(
        "the overlaps of tiles are not measured twice",
        "surgery/whole_image.py",
        "measure(self._core(call.x), counted)",
        "measure(call.x, call.mask)",
        "tests/surgery/test_tiles.py",
    ),
    Mutation(
        "a tile asks for the row of its condition",
        "surgery/sample_calls.py",
        'return layer._rows(given["condition"], x.shape[0])',
        "return parameters_of(layer)",
        "tests/surgery/test_tiles_of_conditions.py",
    ),
    Mutation(
        "a segmentation of the whole is none of a tile",
        "surgery/segmentations.py",
        "return part.sizes == part.whole",
        "return True",
        "tests/surgery/test_tiles_of_conditions.py",
    ),
]
