"""Encoders: `Config` and `Encoder(feats, feat_lens) -> enc, enc_lens`."""
