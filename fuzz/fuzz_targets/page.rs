#![no_main]
shears_fuzz::run!("page");
