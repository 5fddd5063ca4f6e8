"""The Japanese of the path of questions in `normwise.explanation.choices`: English text to Japanese."""

JAPANESE = {
    # Questions.
    "What is the task?": "課題は何ですか",
    "Does the style (contrast, colour, light) tell something?": "画風(コントラスト、色、明るさ)に意味はありますか",
    "How many samples are on each device in a training step?": "学習の一歩で、デバイスごとに何サンプルありますか",
    "Where will the trained net run?": "学習したネットはどこで動きますか",
    "What decides about the style of the output?": "出力の画風は何で決まりますか",
    "What kind of net is it?": "どんなネットですか",
    # Answers.
    "Classify, detect or segment pictures, volumes, signals": "画像・ボリューム・信号の分類、検出、領域分割",
    "Generate pictures, or transfer style": "画像の生成、スタイル変換",
    "Language, speech or other sequences": "言語、音声、その他の系列",
    "Any of these without normalizers": "正規化を使わずに行いたい",
    "It does, or nobody knows": "ある、または分からない",
    "It differs between the pictures, and only part of it tells something": "画像ごとに違い、一部だけに意味がある",
    "It must not matter at all": "まったく影響してはならない",
    "16 or more, drawn at random": "16 以上で、無作為に引かれる",
    "16 or more, but each batch of one kind (a domain, a patient, a video)": "16 以上だが、バッチごとに一種類"
    "(ドメイン、患者、動画)",
    "2 to 15, on several devices, and the net must keep BatchNorm": "2 から 15 で、デバイスは複数、BatchNorm は変えられない",
    "2 to 15": "2 から 15",
    "1": "1",
    "Compiled or exported, and every millisecond counts": "コンパイルまたはエクスポートして動かし、1 ミリ秒も惜しい",
    "Anywhere, but on data that drift, or one picture at a time": "どこでも。ただしデータが変わっていくか、一枚ずつ",
    "One painting, or one domain": "一枚の絵、または一つのドメイン",
    "One of a list of styles or labels": "決まった画風またはラベルの一つ",
    "Any painting, known only when it is used": "使うときに初めて分かる任意の絵",
    "A GAN, and its discriminator wins": "GAN で、Discriminator が勝ってしまう",
    "A transformer": "Transformer",
    "A recurrent net": "再帰型ネット",
    "Convolutions over sequences with padding": "詰め物のある系列への畳み込み",
    # Reasons.
    "In evaluation BatchNorm is a fixed scale and shift, which `normwise convert` folds into the convolutions; GroupNorm "
    "has to measure every picture.": "推論時の BatchNorm は固定された倍率とずれなので、`normwise convert` が畳み込みに"
    "織り込めます。GroupNorm は画像ごとに測る必要があります。",
    "A layer without remembered statistics is the same function in training and evaluation.": "統計量を覚えない層は、"
    "学習時と推論時で同じ関数です。",
    "The batch stands for the data, and BatchNorm is usually among the most accurate.": "バッチがデータを代表し、"
    "BatchNorm は普通もっとも精度の高いものの一つです。",
    "What BatchNorm remembers is then no kind's statistics, and evaluation falls apart.": "BatchNorm が覚えるのはどの種類の"
    "統計量でもなく、推論が崩れます。",
    "Statistics over all devices are those of the large batch.": "全デバイスに跨る統計量は、大きなバッチのものです。",
    "The statistics of so few samples fluctuate from draw to draw; GroupNorm does not look at the batch.": "少数の"
    "サンプルの統計量は引くたびに揺れます。GroupNorm はバッチを見ません。",
    "BatchNorm is InstanceNorm in training then, and something else in evaluation.": "BatchNorm は学習時には InstanceNorm "
    "であり、推論時には別のものです。",
    "Keep it: no InstanceNorm.": "残すべきです。InstanceNorm は使いません。",
    "Batch-Instance Norm learns for every channel how much of it to keep.": "Batch-Instance Norm は、どれだけ残すかを"
    "チャネルごとに学習します。",
    "InstanceNorm takes mean and contrast out of every plane.": "InstanceNorm は各平面から平均とコントラストを除きます。",
    "With InstanceNorm the result does not depend on the contrast of the content.": "InstanceNorm なら、結果はコンテンツの"
    "コントラストに依りません。",
    "Conditional instance norm has a scale and a shift for each.": "条件つき Instance Norm は、それぞれに倍率とずれを"
    "持ちます。",
    "AdaIN gives the content the moments of the style.": "AdaIN はコンテンツにスタイルの平均と分散を与えます。",
    "Spectral normalization bounds what the discriminator does to a small change; it normalizes weights.": "Spectral "
    "Normalization は、小さな変化に対する Discriminator の変化を抑えます。正規化するのは重みです。",
    "LayerNorm and RMSNorm look at one token, so no length and no padding matters.": "LayerNorm と RMSNorm は一つの"
    "トークンだけを見るので、長さも詰め物も影響しません。",
    "LayerNorm is the same at every step; InstanceNorm of sequences is worth little here.": "LayerNorm はどの時刻でも同じ"
    "です。系列の InstanceNorm はここではあまり役立ちません。",
    "With lengths= or mask= the padding takes no part in the statistics of a batch.": "`lengths=` か `mask=` で、詰め物は"
    "バッチの統計量に入りません。",
    "Normalizer-free nets keep their signal by their weights: no batch, no statistics, exact gradients of each sample.": "正"
    "規化なしのネットは重みで信号を保ちます。バッチも統計量もなく、サンプルごとの勾配が正確です。",
    # What to use.
    "BatchNorm, folded": "BatchNorm(畳み込みに織り込む)",
    "GroupNorm": "GroupNorm",
    "a bank of statistics for each kind, Batch Renorm, or a normalizer without the batch": "種類ごとの統計量(bank)、Batch "
    "Renorm、またはバッチを見ない正規化",
    "SyncBatchNorm (process_group='world')": "SyncBatchNorm(process_group='world')",
    "GroupNorm, or a normalizer-free net": "GroupNorm、または正規化なしのネット",
    "BatchInstanceNorm, or IBN-a for other domains": "BatchInstanceNorm。ほかのドメインには IBN-a",
    "InstanceNorm": "InstanceNorm",
    "ConditionalInstanceNorm": "ConditionalInstanceNorm",
    "AdaptiveInstanceNorm": "AdaptiveInstanceNorm",
    "spectral_norm in the discriminator": "Discriminator に spectral_norm",
    "RMSNorm or LayerNorm": "RMSNorm または LayerNorm",
    "LayerNorm": "LayerNorm",
    "BatchNorm with lengths=, or GroupNorm with it": "lengths= をつけた BatchNorm または GroupNorm",
    "nw.nets.nf_resnet50 and its like, or nw.normalizer_free(model)": "nw.nets.nf_resnet50 など、または "
    "nw.normalizer_free(model)",
}
