"""Help texts of `im2latex predict`, `serve` and `monitor`, shared by the commands with and without the pipeline."""

IM2LATEX = "Pictures of formulas to LaTeX."
PREDICT = "Print the LaTeX of images, one line each; the file name comes first if there are several."
PREDICT_STATUS = "Exit status: 0 all images were read, 1 some were not, or with too little confidence."
IMAGE = "Files, folders, or - for standard input."
MODEL = (
    "Folder of a model, ONNX file or file of weights, or `reader`, which comes with im2latex; if not given, the model "
    "pushed last, else the reader."
)
CLEAN = r"Print LaTeX as a person would type it: x_i^2, \sin."
ALTERNATIVES = "Number of alternatives for each image, by beam search."
MIN_CONFIDENCE = "Do not print readings that are right with a lower probability; 0 to 1."
JSON = "Print one JSON object per line, with probabilities."

MONITOR = "Compare the pictures that a service is asked to read with those that its model learned from."
MONITOR_STATUS = "Exit status: 0 nothing has drifted, 4 something has, 1 failed."
URL = "Address of the service."
STATISTICS = "File with what the service answered at /statistics, or - for standard input; instead of --url."
SINCE = "File with an earlier answer: compare only what was asked after it."
THRESHOLD = "Largest distance of a feature, such as width=0.2; repeatable."
MONITOR_JSON = "Print a JSON object."

SERVE = (
    "Serve a model over HTTP, with a page for the browser. Without --model, the model pushed last serves, else the "
    "reader, and newly pushed versions are loaded."
)
SERVE_SIGNALS = "Ctrl-C and SIGTERM stop the service after the requests in progress are answered."
HOST = "Address to listen on; 0.0.0.0 for all."
PORT = "Port to listen on; 0 for a free one."
SERVED_MODEL = MODEL.partition(";")[0] + "."
ALLOW_HOST = "Additional host name to accept in requests; '*' for any. Repeatable."
LOG_FORMAT = "Log on stderr: lines of text, or JSON objects."
