module whyrelay-interop

go 1.19
