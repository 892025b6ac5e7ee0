#![no_main]
shears_fuzz::run!("torch_archive");
