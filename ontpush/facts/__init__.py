"""What is simply so: names and files of MinKNOW, words, formats, options, kinds of trouble."""
