#![no_main]
shears_fuzz::run!("checkpoint_manifest");
