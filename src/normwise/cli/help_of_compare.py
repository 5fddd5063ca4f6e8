"""The text of `normwise compare --help` below its options.

The names are a copy, because the table of layers needs torch; tests/test_cli.py compares the copy with the table.
"""

NAMES = """
  batch, group, instance, layer, ghost, sync, renorm, switchable,
  batch-instance, ibn, filter-response, global-response, evo-b0, evo-s0,
  pixel-layer, pixel-rms, positional, tanh, erf, none, nf, bank,
  token-layer, token-rms, token-layer-zero, token-rms-zero, token-tanh,
  token-erf"""
EPILOG = f"""Examples:

\b
  normwise compare
  normwise compare --data photos/ --model torchvision:resnet18 --image-size 64
  normwise compare --data wine.csv --target class --model my_code:make_model
  normwise compare --data prices.parquet --target price --metric mae
  normwise compare --data cells/ --task segmentation --optimizer sgd
  normwise compare --data book.txt --tokenizer my_code:tokenizer
  normwise compare --norms batch,group:8 --batch-sizes 4,32 --seeds 5
  normwise compare --data photos/ --model timm:resnet18 --weights resnet18.pth
    --norms batch,batch:frozen,swap:group,nf --batch-sizes 2,16
  normwise compare --data mixed-digits --batches-by domain --norms batch,bank
  normwise compare --data scans/ --batches-by 'patient(\\d+)'
  normwise compare --model my_code:make_model --data my_code:make_data
  normwise compare --train my_code:my_train --metric rmse:min
  normwise compare --json - | jq '.[].test_accuracy'

TASK is classification, regression, segmentation, labelling (a class for each token of a sequence) or language (the
next token). By default it is that of the data: digits and mixed-digits (every second one a faint negative) are for
classification, diabetes for regression, shapes for segmentation, words for labelling, text for language. For a table
it follows from the target: text and up to 20 different whole numbers are classes, other numbers are for regression.

DATA is one of these names, a folder with one directory of images per class, or for segmentation with images/ and
masks/, an .npz file, a table (.csv, .parquet, or .npy with the target in the last column), a .txt file, or
package.module:function, which returns training and test data: pairs of tensors, data sets or loaders. MODEL is
resnet8, resnet20 and so on, mlp, unet, tagger, gpt, timm:NAME, torchvision:NAME, a file that holds a whole model, or
package.module:function, which may take norm, in_channels and classes (or outputs). TRAIN, instead of both, is
package.module:function; it is called with a run (run.norm, run.replace, run.batch_size, run.seed) and returns a dict
with the metric: any task, any loop.

With --batches-by KEY each mini-batch holds samples of one group: one domain, patient or video. KEY is a column of a
table, an array of an .npz file (KEY_train and KEY_test if it holds the splits), group for a function that returns
(x, y, group), domain for mixed-digits, and for a folder a regular expression that finds the group in the path below
the directory of the class: '(.*)/' is for directories, 'patient(\\d+)' for a part of the file names. bank is BatchNorm
with running statistics for each group.

With --weights FILE all begin with trained weights (a state_dict, .safetensors, a whole model); FILE may be pretrained,
for the weights in the cache of timm or torchvision. Besides normalizers, which keep γ and β, there are then strategies:
batch:frozen and batch:recalibrated (running statistics that are frozen, or computed again after training), swap:group
(or any other) from a data-free start, and anneal:group from the old function to the new.

NAMES are separated by commas, by default those that suit the task; group:8 is GroupNorm with 8 groups; nf is the
normalizer-free counterpart of resnet8, resnet20 and so on, and for other residual models the result of
normwise.normalizer_free (without --train); those for tokens replace LayerNorm and RMSNorm, and are left out if MODEL
has none:

\b{NAMES}
"""
