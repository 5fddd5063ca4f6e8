"""What `normwise compare --help` says below its options.

tests/test_cli.py holds the names against the layers' own table, which only torch can load.
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
classification, diabetes for regression, shapes for segmentation, words for labelling, text for language; a table says
it by its target, of which text and up to 20 whole numbers are classes.

DATA is one of these names, a folder with one directory of images per class, or for segmentation with images/ and
masks/, an .npz file, a table (.csv, .parquet, or .npy with the target in the last column), a .txt file, or
package.module:function, which returns training and test data: pairs of tensors, data sets or loaders. MODEL is
resnet8, resnet20 and so on, mlp, unet, tagger, gpt, timm:NAME, torchvision:NAME, a file that holds a whole model, or
package.module:function, which may take norm, in_channels and classes (or outputs). TRAIN, in the place of both, is
package.module:function, which gets a run (run.norm, run.replace, run.batch_size, run.seed) and returns a dict with the
metric: any task, any loop.

With --batches-by KEY each mini-batch holds samples of one group alone: one domain, patient or video. KEY is a column
of a table, an array of an .npz file (KEY_train and KEY_test where it holds the splits), group for what a function
returns as (x, y, group), domain for mixed-digits, and for a folder a regular expression that finds the group in the
path below the directory of the class: '(.*)/' takes directories, 'patient(\\d+)' a part of the file names. bank is
BatchNorm with running statistics for each group.

With --weights FILE all begin with the weights of a training before (a state_dict, .safetensors, a whole model); FILE
may be pretrained, for those that timm or torchvision has in its cache. Then, besides the normalizers, which keep
gains and biases, there are strategies: batch:frozen and batch:recalibrated (running statistics that stay, or that
are computed anew after training), swap:group (or any other) from a data-free start, and anneal:group from the old
function to the new.

NAMES are separated by commas, by default those that suit the task; group:8 is GroupNorm with 8 groups; nf is the
normalizer-free counterpart of resnet8, resnet20 and so on, of other residual models what normwise.normalizer_free
makes of them (without --train); those of tokens
replace LayerNorm and RMSNorm in models that have them (any other MODEL leaves them out):

\b{NAMES}
"""
