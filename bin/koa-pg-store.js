#!/usr/bin/env node
import '../build/lib/cli/main.js'
