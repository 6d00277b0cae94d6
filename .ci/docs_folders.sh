# Small folders that several pages begin with, made once: corpora, JetClass files, a tokenizer, tokens, models.
hepfm ingest pythia --records 60 --out ten-classes/
hepfm ingest pythia --classes QCD --seed 2 --records 60 --out other/
hepfm corpus export ten-classes/ --format jetclass --out exported/
mkdir -p raw
cp exported/train/000000.root raw/jetclass_000.root
cp exported/val/000000.root raw/jetclass_001.root
hepfm tokenizer fit ten-classes/ --out tok/ --codes 64 --steps 5 --batch-records 64
hepfm tokenizer apply tok/ ten-classes/ --out tokens/
hepfm pretrain tokens/ --out run/ --steps 2 --batch-records 32 --condition label jet_pt
hepfm finetune tag ten-classes/ --model deep-sets --steps 3 --batch-records 64 --out tagger/
