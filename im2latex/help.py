"""Help texts of `im2latex predict`, `serve` and `monitor`, shared by the commands with and without the pipeline."""

IM2LATEX = "Convert pictures of formulas to LaTeX."
PREDICT = "Print the LaTeX of each image on one line, after the file name if there are several images."
PREDICT_STATUS = "Exit status: 0 all images were read; 1 some could not be read, or are below --min-confidence."
IMAGE = "Image files, folders of images, or - for standard input."
MODEL = (
    "Folder of a model, ONNX file, file of weights, or `reader` (the model that comes with im2latex). Default: the "
    "newest pushed model, or the reader if there is none."
)
CLEAN = r"Print LaTeX as a person would type it: x_i^2, \sin."
ALTERNATIVES = "Number of alternatives to print for each image, found by beam search."
MIN_CONFIDENCE = (
    "Minimum probability that the LaTeX is right, 0 to 1. Below it, report the image on stderr without its LaTeX."
)
JSON = "Print one JSON object per line, with probabilities."

MONITOR = "Compare the pictures that a service receives with the training examples of its model."
MONITOR_STATUS = "Exit status: 0 nothing has drifted, 4 something has, 1 failed."
ADDRESS = "http://127.0.0.1:8501"  # of a service with the default host and port
URL = "Address of the service."
STATISTICS = "File with a response of /statistics, or - for standard input; instead of --url."
SINCE = "File with an earlier response of /statistics; compare only the pictures after it."
THRESHOLD = "Largest distance of a feature, such as width=0.2; repeatable."
MONITOR_JSON = "Print a JSON object."

SERVE = (
    "Serve a model over HTTP, with a page for the browser. Without --model, serve the newest pushed model, and load "
    "newer ones when they are pushed; if there is none, serve the reader."
)
SERVE_SIGNALS = "Ctrl-C and SIGTERM stop the service after the requests in progress are answered."
HOST = "Address to listen on; 0.0.0.0 for all network interfaces."
PORT = "Port to listen on; 0 for a free one."
SERVED_MODEL = MODEL.partition(" Default:")[0]
ALLOW_HOST = "Additional host name to accept in requests; '*' for any. Repeatable."
LOG_FORMAT = "Log on stderr: lines of text, or JSON objects."
COLLECT = "Folder for corrections; people can save them on the page, for the next training."
